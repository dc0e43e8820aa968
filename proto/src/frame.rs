//! The frame codec. Every frame, on every channel, begins with the same eight bytes:
//!
//! ```text
//!  0      1       2          4             8
//! ┌──────┬───────┬──────────┬─────────────┐
//! │ kind │ flags │ reserved │ length      │  then `length` bytes
//! └──────┴───────┴──────────┴─────────────┘
//! ```
//!
//! All integers are big-endian. Control frames carry a prost message; DATA, which only a local link carries, has twenty
//! more bytes of fixed header and then the payload. docs/wire.md describes each byte.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;

use crate::{
    code::Code,
    message::{
        Abort, Accept, Bind, Bound, Consumed, Credit, Drain, EndAck, Incoming, Limit, LinkHello, Malformed, Message,
        Open, Reclaim, Refused, Resume, Resumed, TrunkHello, Unbind, Want,
    },
};

/// The bytes that begin every frame.
pub const PREFIX_BYTES: usize = 8;
/// A DATA frame's header: the prefix, then stream (8), offset (8), epoch (4).
pub const DATA_HEADER_BYTES: usize = PREFIX_BYTES + 20;
/// The longest payload of a DATA frame. A reader buffers one whole frame, so this bounds its buffer.
pub const DATA_BYTES_MAX: usize = 64 * 1024;
/// The longest control message. A longer declared length ends the connection before a byte of it is read.
pub const CONTROL_BYTES_MAX: usize = 16 * 1024;

/// Flag of DATA: these are the last bytes of the stream.
const FLAG_FIN: u8 = 0x01;
/// Flag of any frame: a reader that does not know the kind may skip it. Without it, the reader must refuse.
const FLAG_OPTIONAL: u8 = 0x80;

/// Why bytes are not a frame. The connection that they came on cannot go on: its framing is lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The declared length is more than that kind of frame may have.
    #[error("a frame of kind {kind:#04x} declares {length} bytes, more than {max}")]
    TooLong {
        /// The kind byte.
        kind: u8,
        /// The declared length.
        length: u32,
        /// The most that is allowed.
        max: usize,
    },
    /// The declared length cannot hold that frame's fixed header.
    #[error("a DATA frame declares {length} bytes, fewer than its header has")]
    TooShort {
        /// The declared length.
        length: u32,
    },
    /// The kind is unknown and the frame is not marked as optional.
    #[error("a mandatory frame of unknown kind {kind:#04x}")]
    Unknown {
        /// The kind byte.
        kind: u8,
    },
    /// The message does not parse.
    #[error("a frame of kind {kind:#04x} does not parse")]
    Parse {
        /// The kind byte.
        kind: u8,
    },
    /// The message parses and is not valid.
    #[error("a frame of kind {kind:#04x} is not valid: {reason}")]
    Malformed {
        /// The kind byte.
        kind: u8,
        /// What is wrong with it.
        reason: Malformed,
    },
}

impl FrameError {
    /// The code that the stream or the connection ends with.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Unknown { .. } => Code::Unsupported,
            Self::TooLong { .. } | Self::TooShort { .. } | Self::Parse { .. } | Self::Malformed { .. } => {
                Code::Protocol
            }
        }
    }
}

/// What a DATA frame's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataHeader {
    /// The stream's id on this link.
    pub stream: u64,
    /// How many bytes of the stream precede this payload.
    pub offset: u64,
    /// The epoch that the payload belongs to.
    pub epoch: u32,
    /// Whether these are the stream's last bytes.
    pub fin: bool,
}

macro_rules! frames {
    ($($(#[$doc:meta])* $name:ident = $kind:literal;)+) => {
        /// One frame, decoded and valid.
        #[derive(Debug, Clone, PartialEq)]
        #[expect(missing_docs, reason = "each variant is documented where its message is")]
        pub enum Frame {
            $($(#[$doc])* $name($name),)+
            /// Bytes of a stream; on a local link only.
            Data(DataHeader, Bytes),
        }

        $(impl From<$name> for Frame {
            fn from(message: $name) -> Self {
                Self::$name(message)
            }
        })+

        impl Frame {
            fn kind(&self) -> u8 {
                match self {
                    $(Self::$name(_) => $kind,)+
                    Self::Data(..) => KIND_DATA,
                }
            }

            fn encode_message(&self, out: &mut BytesMut) {
                match self {
                    $(Self::$name(message) => message.to_wire().encode_raw(out),)+
                    Self::Data(_, payload) => out.put_slice(payload),
                }
            }

            fn decode_message(kind: u8, body: &[u8]) -> Result<Option<Self>, FrameError> {
                match kind {
                    $($kind => {
                        let wire = <$name as Message>::Wire::decode(body).map_err(|_| FrameError::Parse { kind })?;
                        let message = $name::from_wire(wire).map_err(|reason| FrameError::Malformed { kind, reason })?;
                        Ok(Some(Self::$name(message)))
                    })+
                    _ => Ok(None),
                }
            }

            /// The names and numbers of all kinds, DATA apart, for the test that holds docs/wire.md to them.
            #[cfg(test)]
            const KINDS: &[(&str, u8)] = &[$((stringify!($name), $kind)),+];
        }
    };
}

const KIND_DATA: u8 = 0x30;

frames! {
    LinkHello = 0x01;
    TrunkHello = 0x02;
    Drain = 0x03;
    Bind = 0x10;
    Bound = 0x11;
    Refused = 0x12;
    Unbind = 0x13;
    Incoming = 0x14;
    Open = 0x20;
    Resume = 0x21;
    Accept = 0x22;
    Resumed = 0x23;
    Credit = 0x31;
    Want = 0x32;
    Reclaim = 0x33;
    Limit = 0x34;
    Abort = 0x40;
    Consumed = 0x41;
    EndAck = 0x42;
}

impl Frame {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        if let Self::Data(header, payload) = self {
            header.encode(payload.len(), out);
            out.put_slice(payload);
            return;
        }
        let start = out.len();
        out.put_slice(&[self.kind(), 0, 0, 0, 0, 0, 0, 0]);
        self.encode_message(out);
        let length = u32::try_from(out.len() - start - PREFIX_BYTES).unwrap_or(u32::MAX);
        out[start + 4..start + PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    }
}

impl DataHeader {
    /// Appends the header of a DATA frame whose payload of `payload_bytes` (at most [`DATA_BYTES_MAX`]) follows.
    pub fn encode(&self, payload_bytes: usize, out: &mut BytesMut) {
        debug_assert!(payload_bytes <= DATA_BYTES_MAX, "a payload of {payload_bytes} bytes");
        let length = u32::try_from(DATA_HEADER_BYTES - PREFIX_BYTES + payload_bytes).unwrap_or(u32::MAX);
        out.reserve(DATA_HEADER_BYTES);
        out.put_u8(KIND_DATA);
        out.put_u8(if self.fin { FLAG_FIN } else { 0 });
        out.put_u16(0);
        out.put_u32(length);
        out.put_u64(self.stream);
        out.put_u64(self.offset);
        out.put_u32(self.epoch);
    }

    fn decode(flags: u8, mut header: &[u8]) -> Self {
        Self { stream: header.get_u64(), offset: header.get_u64(), epoch: header.get_u32(), fin: flags & FLAG_FIN != 0 }
    }
}

/// Turns the bytes of a connection into frames.
///
/// Feed it through [`Decoder::buffer`], then call [`Decoder::next`] until it returns `None`. What it holds is bounded by
/// what was read plus one frame; a declared length is never allocated before its bytes arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Where bytes that were read are appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Bytes that were read and are not part of a decoded frame.
    #[must_use]
    pub fn into_remainder(self) -> BytesMut {
        self.buffer
    }

    /// The next whole frame, or `None` until more bytes have been appended. Unknown optional frames are skipped.
    ///
    /// A DATA payload is copied into an allocation of its own size: a small one that waits for its application must not
    /// pin the whole read buffer.
    ///
    /// # Errors
    /// [`FrameError`]: the connection's framing is lost, and it must be closed.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at None; this one goes on")]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            let Some(prefix) = self.buffer.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
            let [kind, flags, _, _, length @ ..] = *prefix;
            let length = u32::from_be_bytes(length);
            let max =
                if kind == KIND_DATA { DATA_BYTES_MAX + DATA_HEADER_BYTES - PREFIX_BYTES } else { CONTROL_BYTES_MAX };
            let body_bytes = usize::try_from(length).unwrap_or(usize::MAX);
            if body_bytes > max {
                return Err(FrameError::TooLong { kind, length, max });
            }
            if kind == KIND_DATA && body_bytes < DATA_HEADER_BYTES - PREFIX_BYTES {
                return Err(FrameError::TooShort { length });
            }
            let Some(body) = self.buffer.get(PREFIX_BYTES..PREFIX_BYTES + body_bytes) else { return Ok(None) };
            let frame = if kind == KIND_DATA {
                let (header, payload) = body.split_at(DATA_HEADER_BYTES - PREFIX_BYTES);
                Some(Frame::Data(DataHeader::decode(flags, header), Bytes::copy_from_slice(payload)))
            } else {
                Frame::decode_message(kind, body)?
            };
            self.buffer.advance(PREFIX_BYTES + body_bytes);
            match frame {
                Some(frame) => return Ok(Some(frame)),
                None if flags & FLAG_OPTIONAL != 0 => {}
                None => return Err(FrameError::Unknown { kind }),
            }
        }
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
