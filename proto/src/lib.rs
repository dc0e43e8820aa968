//! What two processes of Trunkline agree on: names, codes, frames, and how messages lie in a stream.
//!
//! Nothing here does I/O, asks the clock or draws a random number. docs/wire.md describes the same bytes in prose.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`id`] | names that are valid once they exist, and addresses made of them |
//! | [`code`] | the one table of error, reset and close codes |
//! | [`version`] | version ranges and features, and how two sides agree |
//! | [`message`] | the control messages, validated |
//! | [`frame`] | frames: the eight bytes before each message, and DATA's fixed header |
//! | [`framing`] | messages inside a stream: lengths and the end mark |
//! | [`outgoing`] | frames and payloads gathered for vectored writes |
//! | `admin` | the admin service's client and server (feature `admin`) |

pub mod code;
pub mod frame;
pub mod framing;
pub mod id;
pub mod message;
pub mod outgoing;
pub mod version;
mod wire;

#[cfg(feature = "admin")]
pub use wire::admin::v1 as admin;

/// All `.proto` files as an encoded `google.protobuf.FileDescriptorSet`, for gRPC reflection.
#[cfg(feature = "admin")]
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
