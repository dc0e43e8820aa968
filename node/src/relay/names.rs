//! Names that many streams have in common, each in memory once.
//!
//! Every OPEN brings its names as text. The streams of a node belong to few jobs, consumers and peers, so all but the
//! producer's name are shared; a name of 1 to 24 bytes would otherwise take 48 for each stream.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

use trunkline_proto::{
    id::{ConsumerName, JobId, NodeId},
    message::Open,
};

/// The names in use, each with how many streams use it: no more than there are streams.
#[derive(Default)]
pub(super) struct Names {
    jobs: HashMap<JobId, usize>,
    consumers: HashMap<ConsumerName, usize>,
    nodes: HashMap<NodeId, usize>,
}

impl Names {
    /// The same opening, whose names are those of others where others have the same. To be [released](Names::release).
    pub(super) fn share(&mut self, open: Open) -> Open {
        Open {
            job: share(&mut self.jobs, open.job),
            consumer: share(&mut self.consumers, open.consumer),
            node: share(&mut self.nodes, open.node),
            producer_node: open.producer_node.map(|node| share(&mut self.nodes, node)),
            ..open
        }
    }

    /// The stream of a shared opening is gone.
    pub(super) fn release(&mut self, open: &Open) {
        release(&mut self.jobs, &open.job);
        release(&mut self.consumers, &open.consumer);
        release(&mut self.nodes, &open.node);
        if let Some(node) = &open.producer_node {
            release(&mut self.nodes, node);
        }
    }
}

fn share<T: Clone + Eq + Hash>(names: &mut HashMap<T, usize>, name: T) -> T {
    match names.entry(name) {
        Entry::Occupied(mut known) => {
            *known.get_mut() += 1;
            known.key().clone()
        }
        Entry::Vacant(new) => {
            let name = new.key().clone();
            new.insert(1);
            name
        }
    }
}

fn release<T: Eq + Hash>(names: &mut HashMap<T, usize>, name: &T) {
    if let Some(uses) = names.get_mut(name) {
        *uses -= 1;
        if *uses == 0 {
            names.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use trunkline_proto::id::{Incarnation, Weight};

    use super::*;

    fn opening(number: u64, consumer: &str) -> Open {
        Open {
            stream: 2 * number,
            job: JobId { name: "job".parse().unwrap(), run: "r1".parse().unwrap() },
            producer: "map".parse().unwrap(),
            producer_node: Some("node-a".parse().unwrap()),
            incarnation: Incarnation::from_bits(number.into()),
            number,
            consumer: consumer.parse().unwrap(),
            node: "node-b".parse().unwrap(),
            epoch: 0,
            weight: Weight::MIN,
        }
    }

    #[test]
    fn streams_with_the_same_names_share_them_and_nothing_else() {
        let mut names = Names::default();
        let first = names.share(opening(1, "reduce"));
        let second = names.share(opening(2, "reduce"));
        assert_eq!((&first, &second), (&opening(1, "reduce"), &opening(2, "reduce")));
        let places = |open: &Open| {
            let producer_node = open.producer_node.as_ref().unwrap().as_str().as_ptr();
            let job = (open.job.name.as_str().as_ptr(), open.job.run.as_str().as_ptr());
            (job, open.consumer.as_str().as_ptr(), open.node.as_str().as_ptr(), producer_node)
        };
        assert_eq!(places(&first), places(&second));
    }

    #[test]
    fn a_name_goes_with_the_last_stream_that_has_it() {
        let mut names = Names::default();
        let opens =
            [opening(1, "reduce-1"), opening(2, "reduce-1"), opening(3, "reduce-2")].map(|open| names.share(open));
        let counts = |names: &Names| (names.jobs.len(), names.consumers.len(), names.nodes.len());
        assert_eq!(counts(&names), (1, 2, 2));
        names.release(&opens[0]);
        assert_eq!(counts(&names), (1, 2, 2));
        names.release(&opens[1]);
        assert_eq!(counts(&names), (1, 1, 2));
        names.release(&opens[2]);
        assert_eq!(counts(&names), (0, 0, 0));
    }
}
