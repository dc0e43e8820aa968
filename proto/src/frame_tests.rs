//! Frames survive their encoding, strangers' bytes do no harm, and docs/wire.md says what the code does.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    code::Code,
    framing,
    id::{ConsumerName, Incarnation, JobId, JobName, NAME_BYTES_MAX, NodeId, ProducerName, RunId, Weight},
    message::{StreamKey, TEXT_BYTES_MAX},
    version::Offer,
};

const PAGE: &str = include_str!("../../docs/wire.md");

// ---- Arbitrary frames ----------------------------------------------------------------------------------------------

fn name<T: for<'a> TryFrom<&'a str, Error: std::fmt::Debug> + std::fmt::Debug>() -> impl Strategy<Value = T> {
    "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}".prop_map(|text: String| T::try_from(&text).unwrap())
}

fn incarnation() -> impl Strategy<Value = Incarnation> {
    any::<u128>().prop_map(Incarnation::from_bits)
}

/// A text of up to `bytes_max` bytes, of any characters.
fn text(bytes_max: usize) -> impl Strategy<Value = String> {
    let texts = vec(any::<char>(), 0..=bytes_max / 4).prop_map(String::from_iter);
    prop_oneof![9 => texts, 1 => Just("x".repeat(bytes_max))]
}

fn code() -> impl Strategy<Value = Code> {
    select(Code::ALL)
}

/// Numbers of every encoded length.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0_u32..64).prop_map(|(bits, shift)| bits >> shift)
}

fn job() -> impl Strategy<Value = JobId> {
    (name::<JobName>(), name::<RunId>()).prop_map(|(name, run)| JobId { name, run })
}

fn weight() -> impl Strategy<Value = Weight> {
    (1..=100_u32).prop_map(|weight| weight.try_into().unwrap())
}

fn open() -> impl Strategy<Value = Open> {
    let names = (job(), name::<ProducerName>(), name::<ConsumerName>(), name::<NodeId>());
    let rest = (prop::option::of(name::<NodeId>()), incarnation(), number(), number(), any::<u32>(), weight());
    (names, rest).prop_map(
        |((job, producer, consumer, node), (producer_node, incarnation, stream, number, epoch, weight))| Open {
            stream,
            job,
            producer,
            producer_node,
            incarnation,
            number,
            consumer,
            node,
            epoch,
            weight,
        },
    )
}

fn key() -> impl Strategy<Value = StreamKey> {
    (job(), name::<ProducerName>(), name::<ConsumerName>(), incarnation(), number()).prop_map(
        |(job, producer, consumer, incarnation, number)| StreamKey { job, producer, consumer, incarnation, number },
    )
}

fn abort() -> impl Strategy<Value = Abort> {
    (number(), code(), number(), text(TEXT_BYTES_MAX)).prop_map(|(stream, code, offset, text)| Abort {
        stream,
        code,
        offset,
        text,
    })
}

fn offer() -> impl Strategy<Value = Offer> {
    (any::<u32>(), any::<u32>(), vec(text(64), 0..=64)).prop_map(|(version_min, version_max, features)| Offer {
        version_min,
        version_max,
        features,
    })
}

/// A payload; its bytes are cheap to make and differ from each other.
fn payload() -> impl Strategy<Value = Bytes> {
    let length = prop_oneof![4 => 0..200_usize, 4 => 0..10_000_usize, 1 => Just(DATA_BYTES_MAX)];
    (length, any::<u8>()).prop_map(|(length, first)| {
        let mut byte = first;
        let next = |_| {
            byte = byte.wrapping_mul(5).wrapping_add(3);
            byte
        };
        (0..length).map(next).collect()
    })
}

/// One strategy for each kind of frame, in the order of [`Frame::KINDS`], DATA last.
fn kinds() -> Vec<BoxedStrategy<Frame>> {
    fn of<M: Into<Frame> + std::fmt::Debug + 'static>(
        message: impl Strategy<Value = M> + 'static,
    ) -> BoxedStrategy<Frame> {
        message.prop_map(Into::into).boxed()
    }
    let link_hello = (offer(), text(128), text(64), prop::option::of(name::<NodeId>()), any::<u32>(), number())
        .prop_map(|(offer, software, cluster, node, pid, patience_ms)| LinkHello {
            offer,
            software,
            cluster,
            node,
            pid,
            patience_ms,
        });
    let trunk_hello =
        (offer(), text(128), number(), number(), number()).prop_map(|(offer, software, boot_id, dial, dials_begun)| {
            TrunkHello { offer, software, boot_id, dial, dials_begun }
        });
    let awaited = vec(name::<NodeId>(), 0..=128);
    let bind = (number(), job(), name::<ConsumerName>(), incarnation(), any::<bool>(), awaited).prop_map(
        |(bind, job, consumer, incarnation, resumes_only, awaited_nodes)| Bind {
            bind,
            job,
            consumer,
            incarnation,
            resumes_only,
            awaited_nodes,
        },
    );
    let refused = (number(), code(), text(TEXT_BYTES_MAX)).prop_map(|(bind, code, text)| Refused { bind, code, text });
    let resume = (open(), incarnation()).prop_map(|(open, consumer_incarnation)| Resume { open, consumer_incarnation });
    let accept = (number(), incarnation(), number()).prop_map(|(stream, incarnation, limit)| Accept {
        stream,
        incarnation,
        limit,
    });
    let resumed = (number(), any::<u32>(), number(), number(), number())
        .prop_map(|(stream, epoch, received, consumed, limit)| Resumed { stream, epoch, received, consumed, limit });
    let credit = (number(), any::<u32>(), number(), number(), number(), any::<bool>()).prop_map(
        |(stream, epoch, received, consumed, limit, finished)| Credit {
            stream,
            epoch,
            received,
            consumed,
            limit,
            finished,
        },
    );
    let point = || (number(), any::<u32>(), number());
    let consumed = (key(), number(), any::<bool>(), prop::option::of(abort()))
        .prop_map(|(key, consumed, finished, abort)| Consumed { key, consumed, finished, abort });
    let data = (number(), number(), any::<u32>(), any::<bool>(), payload()).prop_map(
        |(stream, offset, epoch, fin, payload)| Frame::Data(DataHeader { stream, offset, epoch, fin }, payload),
    );
    vec![
        of(link_hello),
        of(trunk_hello),
        of(number().prop_map(|deadline_ms| Drain { deadline_ms })),
        of(bind),
        of(number().prop_map(|bind| Bound { bind })),
        of(refused),
        of(number().prop_map(|bind| Unbind { bind })),
        of((number(), open(), prop::option::of(incarnation()))
            .prop_map(|(bind, open, consumer_incarnation)| Incoming { bind, open, consumer_incarnation })),
        of(open()),
        of(resume),
        of(accept),
        of(resumed),
        of(credit),
        of(point().prop_map(|(stream, epoch, wanted)| Want { stream, epoch, wanted })),
        of(point().prop_map(|(stream, epoch, limit)| Reclaim { stream, epoch, limit })),
        of(point().prop_map(|(stream, epoch, limit)| Limit { stream, epoch, limit })),
        of(abort()),
        of(consumed),
        of(number().prop_map(|stream| EndAck { stream })),
        data.boxed(),
    ]
}

/// One frame of each kind, in any order.
fn one_of_each() -> impl Strategy<Value = Vec<Frame>> {
    kinds().prop_shuffle()
}

fn any_frame() -> impl Strategy<Value = Frame> {
    prop::strategy::Union::new(kinds())
}

fn kind_is_known(kind: u8) -> bool {
    kind == KIND_DATA || Frame::KINDS.iter().any(|&(_, known)| known == kind)
}

fn unknown_kind() -> impl Strategy<Value = u8> {
    any::<u8>().prop_filter("a kind of this version", |&kind| !kind_is_known(kind))
}

/// The sizes in which a connection's bytes happen to be read.
fn reads() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1_usize..10, 1_usize..9_000], 1..40)
}

// ---- Feeding a decoder ---------------------------------------------------------------------------------------------

fn encode(frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    out
}

/// A frame of any kind and flags around any body.
fn put_raw(kind: u8, flags: u8, reserved: u16, body: &[u8], out: &mut BytesMut) {
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u16(reserved);
    out.put_u32(u32::try_from(body.len()).unwrap());
    out.put_slice(body);
}

fn fed(bytes: &[u8]) -> Decoder {
    let mut decoder = Decoder::default();
    decoder.buffer().extend_from_slice(bytes);
    decoder
}

/// Feeds `bytes` in pieces of the sizes `reads`, until they end or an error does; holds the decoder to its memory bound.
fn decode(bytes: &[u8], reads: &[usize]) -> (Vec<Frame>, Result<Decoder, FrameError>) {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    let mut rest = bytes;
    for &size in reads.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        decoder.buffer().extend_from_slice(piece);
        let capacity = decoder.buffer.capacity();
        // A growing `BytesMut` doubles; what is declared and has not arrived counts for nothing.
        assert!(capacity <= 2 * (bytes.len() - rest.len()) + 64, "{capacity} bytes for {}", bytes.len() - rest.len());
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
            assert!(decoder.buffer.capacity() <= capacity, "decoding allocated");
        }
        assert!(decoder.buffer.capacity() <= capacity, "looking at a partial frame allocated");
    }
    (frames, Ok(decoder))
}

proptest! {
    #[test]
    fn every_kind_survives_whatever_the_reads_took(frames in one_of_each(), reads in reads()) {
        let kinds: BTreeSet<u8> = frames.iter().map(Frame::kind).collect();
        prop_assert_eq!(kinds.len(), Frame::KINDS.len() + 1, "`kinds` lacks a strategy");
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        let (arrived, end) = decode(&bytes, &reads);
        prop_assert_eq!(arrived, frames);
        prop_assert!(end.unwrap().into_remainder().is_empty());
    }

    #[test]
    fn a_truncated_frame_is_none_until_its_rest_arrives(frame in any_frame(), cut: prop::sample::Index) {
        let bytes = encode(&frame);
        let (begin, rest) = bytes.split_at(cut.index(bytes.len()));
        let mut decoder = fed(begin);
        prop_assert_eq!(decoder.next(), Ok(None));
        decoder.buffer().extend_from_slice(rest);
        prop_assert_eq!(decoder.next(), Ok(Some(frame)));
        prop_assert_eq!(decoder.next(), Ok(None));
    }

    #[test]
    fn garbage_is_read_without_a_panic(bytes in vec(any::<u8>(), 0..4_000), reads in reads()) {
        let _ = decode(&bytes, &reads);
    }

    #[test]
    fn garbage_in_well_formed_frames_is_read_without_a_panic(
        frames in vec((any::<u8>(), any::<u8>(), any::<u16>(), vec(any::<u8>(), 0..120)), 1..20), reads in reads()
    ) {
        let mut bytes = BytesMut::new();
        for (selector, flags, reserved, body) in frames {
            // Mostly known kinds, so that the garbage reaches the messages' decoders.
            let known = Frame::KINDS.get(usize::from(selector % 32)).map_or(selector, |&(_, kind)| kind);
            put_raw(known, flags, reserved, &body, &mut bytes);
        }
        let _ = decode(&bytes, &reads);
    }

    #[test]
    fn mutated_frames_are_read_without_a_panic(
        frames in vec(any_frame(), 1..6), flips in vec((any::<prop::sample::Index>(), 1_u8..), 1..8), reads in reads()
    ) {
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        for (at, bits) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
        }
        let _ = decode(&bytes, &reads);
    }

    #[test]
    fn a_declared_length_over_the_maximum_is_refused_with_the_prefix(
        kind: u8, flags: u8, over in prop_oneof![Just(1), 1_u32..]
    ) {
        let max = if kind == KIND_DATA { DATA_BYTES_MAX + DATA_HEADER_BYTES - PREFIX_BYTES } else { CONTROL_BYTES_MAX };
        let length = u32::try_from(max).unwrap().saturating_add(over);
        let mut prefix = vec![kind, flags, 0, 0];
        prefix.extend(length.to_be_bytes());
        let mut decoder = fed(&prefix[..PREFIX_BYTES - 1]);
        prop_assert_eq!(decoder.next(), Ok(None));
        decoder.buffer().put_u8(prefix[PREFIX_BYTES - 1]);
        prop_assert_eq!(decoder.next(), Err(FrameError::TooLong { kind, length, max }));
        prop_assert!(decoder.buffer.capacity() <= 64, "{}", decoder.buffer.capacity());
    }

    #[test]
    fn a_data_frame_shorter_than_its_header_is_refused(flags: u8, length in 0_u32..20) {
        let mut prefix = vec![KIND_DATA, flags, 0, 0];
        prefix.extend(length.to_be_bytes());
        prop_assert_eq!(fed(&prefix).next(), Err(FrameError::TooShort { length }));
    }

    #[test]
    fn an_unknown_optional_frame_is_skipped_and_what_follows_decodes(
        kind in unknown_kind(),
        flags: u8,
        length in prop_oneof![9 => 0..300_usize, 1 => Just(CONTROL_BYTES_MAX)],
        frame in any_frame(),
        reads in reads(),
    ) {
        let mut bytes = BytesMut::new();
        put_raw(kind, flags | FLAG_OPTIONAL, 0, &vec![0x5a; length], &mut bytes);
        frame.encode(&mut bytes);
        let (arrived, end) = decode(&bytes, &reads);
        prop_assert_eq!(arrived, vec![frame]);
        prop_assert!(end.unwrap().into_remainder().is_empty());
    }

    #[test]
    fn an_unknown_mandatory_frame_is_refused(kind in unknown_kind(), flags in 0..FLAG_OPTIONAL, frame in any_frame()) {
        let mut bytes = encode(&frame);
        put_raw(kind, flags, 0, b"from the future", &mut bytes);
        let (arrived, end) = decode(&bytes, &[bytes.len()]);
        prop_assert_eq!(arrived, vec![frame]);
        prop_assert_eq!(end.unwrap_err(), FrameError::Unknown { kind });
    }

    #[test]
    fn unknown_flags_and_reserved_bytes_are_ignored(frame in any_frame(), flags: u8, reserved: u16) {
        let mut bytes = encode(&frame);
        bytes[1] |= flags & !FLAG_FIN;
        bytes[2..4].copy_from_slice(&reserved.to_be_bytes());
        prop_assert_eq!(fed(&bytes).next(), Ok(Some(frame)));
    }

    #[test]
    fn an_over_long_text_is_cut_at_a_characters_border(text in vec(any::<char>(), 400..2_000)) {
        let text = String::from_iter(text);
        let abort = Abort { stream: 2, code: Code::Internal, offset: 0, text: text.clone() };
        let Some(Frame::Abort(arrived)) = fed(&encode(&abort.into())).next().unwrap() else { panic!("no ABORT") };
        prop_assert!(text.starts_with(&arrived.text));
        prop_assert!(arrived.text.len() <= TEXT_BYTES_MAX);
        if let Some(next) = text[arrived.text.len()..].chars().next() {
            prop_assert!(arrived.text.len() + next.len_utf8() > TEXT_BYTES_MAX, "more was cut than need be");
        }
    }
}

#[test]
fn a_long_connection_keeps_a_buffer_of_about_one_frame() {
    let header = DataHeader { stream: 2, offset: 0, epoch: 0, fin: false };
    let frame = encode(&Frame::Data(header, vec![7; DATA_BYTES_MAX].into()));
    let mut decoder = Decoder::default();
    let read_bytes = 10_007;
    let mut frames = 0;
    for piece in frame.repeat(64).chunks(read_bytes) {
        decoder.buffer().extend_from_slice(piece);
        while decoder.next().unwrap().is_some() {
            frames += 1;
        }
        assert!(decoder.buffer.capacity() <= 4 * (frame.len() + read_bytes), "{}", decoder.buffer.capacity());
    }
    assert_eq!(frames, 64);
}

#[test]
fn a_text_longer_than_allowed_is_cut_on_arrival_too() {
    let wire = crate::wire::stream::v1::Abort { stream: 2, code: 3, offset: 0, text: "é".repeat(TEXT_BYTES_MAX) };
    let mut bytes = BytesMut::new();
    put_raw(0x40, 0, 0, &wire.encode_to_vec(), &mut bytes);
    let Some(Frame::Abort(abort)) = fed(&bytes).next().unwrap() else { panic!("no ABORT") };
    assert_eq!(abort.text, "é".repeat(TEXT_BYTES_MAX / 2));
}

#[test]
fn a_hello_keeps_64_features_and_128_bytes_of_software() {
    let features = (0..70).map(|number| format!("feature_{number}")).collect();
    let offer = Offer { version_min: 1, version_max: 1, features };
    let hello = TrunkHello { offer, software: "x".repeat(200), boot_id: 1, dial: 1, dials_begun: 1 };
    let Some(Frame::TrunkHello(arrived)) = fed(&encode(&hello.into())).next().unwrap() else { panic!("no HELLO") };
    assert_eq!(arrived.offer.features.len(), 64);
    assert_eq!(arrived.software.len(), 128);
}

#[test]
fn a_message_that_is_not_valid_says_what_is_wrong() {
    let mut bytes = BytesMut::new();
    put_raw(0x20, 0, 0, &[], &mut bytes);
    assert_eq!(fed(&bytes).next(), Err(FrameError::Malformed { kind: 0x20, reason: Malformed::Missing("job") }));
    bytes.clear();
    put_raw(0x31, 0, 0, &[0x08], &mut bytes);
    assert_eq!(fed(&bytes).next(), Err(FrameError::Parse { kind: 0x31 }));
}

// ---- docs/wire.md --------------------------------------------------------------------------------------------------

/// A message's name on the page: `EndAck` is END_ACK; the two HELLOs say which they are.
fn page_name(type_name: &str) -> String {
    match type_name {
        "LinkHello" => return "HELLO (link)".into(),
        "TrunkHello" => return "HELLO (trunk)".into(),
        _ => {}
    }
    let mut name = String::new();
    for character in type_name.chars() {
        if character.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(character.to_uppercase());
    }
    name
}

/// The page from the heading `### title` to the next heading.
fn section(title: &str) -> &'static str {
    let heading = format!("\n### {title}\n");
    let (_, rest) = PAGE.split_once(&heading).unwrap_or_else(|| panic!("docs/wire.md lacks the heading: ### {title}"));
    rest.split("\n#").next().unwrap()
}

#[test]
fn docs_wire_md_lists_these_very_kinds() {
    let kinds = Frame::KINDS.iter().map(|&(name, kind)| (page_name(name), kind)).chain([("DATA".into(), KIND_DATA)]);
    let rows: Vec<_> = kinds.map(|(name, kind)| format!("| {kind:#04x} | {name} | ")).collect();
    for row in &rows {
        assert!(PAGE.contains(row), "docs/wire.md lacks the row: {row}");
    }
    let listed = PAGE.lines().filter(|line| line.starts_with("| 0x"));
    for line in listed {
        assert!(rows.iter().any(|row| line.starts_with(row)), "docs/wire.md has a kind that the code lacks: {line}");
    }
}

#[test]
fn docs_wire_md_has_these_very_fields() {
    let files = [
        ("", include_str!("../proto/trunkline/stream/v1/stream.proto")),
        ("Link", include_str!("../proto/trunkline/link/v1/link.proto")),
        ("Trunk", include_str!("../proto/trunkline/trunk/v1/trunk.proto")),
    ];
    for (prefix, file) in files {
        for message in file.split("\nmessage ").skip(1) {
            let (name, body) = message.split_once(" {").unwrap();
            let section = match name {
                "Hello" => section(&page_name(&format!("{prefix}{name}"))),
                "JobId" | "StreamKey" => section(name),
                _ => section(&page_name(name)),
            };
            let fields = body.lines().filter_map(|line| line.trim().strip_suffix(';')?.split_once(" = "));
            let rows: Vec<_> = fields
                .map(|(field, number)| {
                    let (kind, field) = field.rsplit_once(' ').unwrap();
                    format!("| {number} | `{field}` | {} | ", kind.trim_start_matches("trunkline.stream.v1."))
                })
                .collect();
            for row in &rows {
                assert!(section.contains(row), "docs/wire.md, {prefix}{name}, lacks the row: {row}");
            }
            let listed = section.lines().filter(|line| line.starts_with('|') && line.contains("| `"));
            assert_eq!(listed.count(), rows.len(), "docs/wire.md, {prefix}{name}, has rows that the code lacks");
        }
    }
}

#[test]
fn docs_wire_md_states_these_very_limits_and_flags() {
    let limits = [
        ("PREFIX_BYTES", PREFIX_BYTES),
        ("DATA_HEADER_BYTES", DATA_HEADER_BYTES),
        ("DATA_BYTES_MAX", DATA_BYTES_MAX),
        ("CONTROL_BYTES_MAX", CONTROL_BYTES_MAX),
        ("NAME_BYTES_MAX", NAME_BYTES_MAX),
        ("TEXT_BYTES_MAX", TEXT_BYTES_MAX),
        ("MESSAGE_BYTES_LIMIT", framing::MESSAGE_BYTES_LIMIT),
        ("LENGTH_BYTES_MAX", framing::LENGTH_BYTES_MAX),
        ("END_MARK_BYTES", framing::END_MARK_BYTES),
    ];
    let page = PAGE.replace(',', "");
    let limits = limits.map(|(name, value)| format!("| `{name}` | {value} | "));
    let flags = [("FIN", FLAG_FIN), ("OPTIONAL", FLAG_OPTIONAL)].map(|(name, bit)| format!("| {name} | {bit:#04x} | "));
    for row in limits.iter().chain(&flags) {
        assert!(page.contains(row), "docs/wire.md lacks the row: {row}");
    }
}

/// The bytes of the example `title`: each of its lines begins with some, and two spaces part them from the remark.
fn example(title: &str) -> Vec<u8> {
    let section = section(&format!("Example: {title}"));
    let dump = section.split("```").nth(1).and_then(|block| block.strip_prefix("text\n"));
    let dump = dump.unwrap_or_else(|| panic!("docs/wire.md has no dump under: Example: {title}"));
    let hex = dump.lines().flat_map(|line| line.split("  ").next().unwrap().split(' '));
    hex.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
}

#[test]
fn docs_wire_md_shows_these_very_bytes() {
    let job = JobId { name: "wordcount".try_into().unwrap(), run: "r1".try_into().unwrap() };
    let producer_life = Incarnation::from_bits(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
    let hello = LinkHello {
        offer: Offer { version_min: 1, version_max: 1, features: Vec::new() },
        software: "trunkline/0.1.0".into(),
        cluster: String::new(),
        node: None,
        pid: 4242,
        patience_ms: 0,
    };
    let open = Open {
        stream: 2,
        job,
        producer: "map-1".try_into().unwrap(),
        producer_node: None,
        incarnation: producer_life,
        number: 1,
        consumer: "reduce-3".try_into().unwrap(),
        node: "node-b".try_into().unwrap(),
        epoch: 0,
        weight: Weight::MIN,
    };
    let credit = Credit { stream: 2, epoch: 0, received: 3, consumed: 3, limit: 16_387, finished: false };
    let abort = Abort { stream: 2, code: Code::ConsumerGone, offset: 3, text: "it exited".into() };
    let data = DataHeader { stream: 2, offset: 0, epoch: 0, fin: false };
    let last = DataHeader { stream: 2, offset: 3, epoch: 0, fin: true };

    let mut message = BytesMut::new();
    framing::put_length(2, &mut message);
    message.put_slice(b"hi");
    let mut end_mark = BytesMut::new();
    framing::put_end_mark(3, &mut end_mark);

    let shown = [
        ("HELLO", encode(&hello.into())),
        ("OPEN", encode(&open.into())),
        ("CREDIT", encode(&credit.into())),
        ("ABORT", encode(&abort.into())),
        ("DATA", encode(&Frame::Data(data, message.clone().freeze()))),
        ("DATA with the end mark", encode(&Frame::Data(last, end_mark.clone().freeze()))),
        ("the same stream on a trunk", [message, end_mark].concat().as_slice().into()),
    ];
    for (title, bytes) in shown {
        assert!(example(title) == bytes, "docs/wire.md, Example: {title}, should read {:02x?}", &bytes[..]);
    }
}
