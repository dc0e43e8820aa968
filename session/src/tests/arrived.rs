//! What whole messages cost while they wait, and that they are read as they came.

use bytes::Bytes;
use proptest::prelude::*;

use super::{accepted_receiver, at, encoded, message};
use crate::{Read, ReadBytes, arrived::Arrived};

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_are_read_as_they_came_however_they_were_cut(
        lengths in prop::collection::vec(prop_oneof![4 => 0..5_usize, 2 => 0..100_usize, 1 => 0..5000_usize], 0..200),
        cuts in prop::collection::vec(1..6000_usize, 1..40),
        reads in prop::collection::vec(prop::option::of(1..200_usize), 1..40),
    ) {
        let bytes = encoded(&lengths).freeze();
        let mut half = accepted_receiver(0, 1 << 40, 5000);
        let (mut sent, mut found, mut bodies) = (0, Vec::new(), Vec::new());
        for &length in &lengths {
            bodies.extend_from_slice(&message(length));
        }
        let mut cuts = cuts.iter().cycle();
        let mut reads = reads.iter().cycle();
        while sent < bytes.len() {
            let cut = cuts.next().copied().unwrap_or(1).min(bytes.len() - sent);
            half.handle_data(&at(sent as u64), bytes.slice(sent..sent + cut));
            sent += cut;
            prop_assert_eq!(half.buffered_bytes(), half.received() - half.consumed());
            match reads.next().copied().flatten() {
                None => {
                    while let Read::Message(message) = half.read() {
                        found.extend_from_slice(&message);
                    }
                }
                Some(bytes_max) => {
                    let mut part = vec![0; bytes_max];
                    if let ReadBytes::Bytes(count) = half.read_bytes(&mut &mut part[..]) {
                        found.extend_from_slice(&part[..count]);
                    }
                }
            }
            prop_assert_eq!(half.unread_messages() == 0, !half.is_readable());
        }
        while let Read::Message(message) = half.read() {
            found.extend_from_slice(&message);
        }
        prop_assert_eq!(found, bodies);
        prop_assert_eq!(half.messages_read(), lengths.len() as u64);
        prop_assert_eq!(half.consumed(), bytes.len() as u64);
    }
}

#[test]
fn a_million_empty_messages_cost_about_what_the_budget_says() {
    let mut half = accepted_receiver(0, 1 << 40, 100);
    let mut offset = 0;
    for _ in 0..1000 {
        half.handle_data(&at(offset), Bytes::from(vec![0; 1000]));
        offset += 1000;
    }
    assert_eq!((half.unread_messages(), half.buffered_bytes()), (1_000_000, 1_000_000));
    assert!(half.held_bytes() < 1_100_000, "{}", half.held_bytes());
    for end in 1..=1_000_000 {
        assert_eq!(half.read(), Read::Message(Bytes::new()));
        assert_eq!(half.consumed(), end);
    }
    assert_eq!(half.read(), Read::Pending);
}

#[test]
fn a_small_message_keeps_none_of_what_was_read_from_the_link_beside_it() {
    let mut arrived = Arrived::default();
    let link = Bytes::from(vec![0; 64 * 1024]);
    arrived.push(link.slice(100..200), 100, 100);
    assert!(link.is_unique());
    arrived.push(link.slice(0..4000), 4100, 4000);
    assert!(!link.is_unique());
    while arrived.pop().is_some() {}
    assert!(link.is_unique() && arrived.is_empty());
}
