//! The workers of one process, and what they work with.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::task::JoinSet;
use trunkline::{Attachment, Job};

use super::{RoleError, Word, Words, map, reduce, stall};
use crate::{
    events::Teller,
    plan::{Part, Plan, Worker},
};

/// What all workers of a process share. Clones are handles to the same.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    /// The folder of the launcher.
    pub(super) folder: Arc<Path>,
    pub(super) plan: Arc<Plan>,
    /// To the node of them all.
    pub(super) attachment: Attachment,
    pub(super) teller: Teller,
    pub(super) words: Words,
}

impl Shared {
    /// The job of `worker`.
    pub(super) fn job(&self, worker: Worker) -> Result<Job, RoleError> {
        Ok(self.attachment.job(self.plan.job(worker.job), self.plan.run.as_str())?)
    }

    /// Waits for the word to begin.
    pub(super) async fn begin(&mut self) {
        self.words.wait_for(Word::Begin).await;
    }

    /// Tells that a round over the files begins, where the launcher is to say when it is enough.
    pub(super) fn tell_round(&self, number: u64) -> Result<(), RoleError> {
        if self.plan.rounds.is_none() { self.teller.round(number).map_err(RoleError::untold) } else { Ok(()) }
    }

    /// Whether there is a round of this `number`, from 1.
    pub(super) async fn have_round(&mut self, number: u64) -> bool {
        match self.plan.rounds {
            Some(rounds) => number <= rounds,
            None => self.words.have_round(number).await,
        }
    }

    /// Where `worker` writes its counts.
    pub(super) fn counts_path(&self, worker: Worker) -> PathBuf {
        self.plan.counts_path(&self.folder, worker.job, worker.index)
    }

    /// Tells that all streams of one mapper are open.
    pub(super) fn tell_opened(&self) -> Result<(), RoleError> {
        self.teller.opened().map_err(RoleError::untold)
    }
}

/// One worker that failed.
pub(super) struct Failed {
    pub(super) worker: Worker,
    pub(super) error: RoleError,
}

/// How the workers of a process ended.
pub(super) enum Outcome {
    /// All did their part, and the attachment is closed.
    Done,
    /// The first that failed. The others were given up.
    Failed(Failed),
}

/// Runs `workers` as tasks until all have done their part or one has failed; then detaches, and tells how far they came.
pub(super) async fn run(shared: Shared, workers: impl IntoIterator<Item = Worker>) -> Result<Outcome, RoleError> {
    let mut tasks = JoinSet::new();
    for worker in workers {
        let shared = shared.clone();
        tasks.spawn(async move {
            let done = match worker.part {
                Part::Map if shared.plan.is_stalled(worker.job) => stall::run(shared, worker).await,
                Part::Map => map::run(shared, worker).await,
                Part::Reduce => reduce::run(shared, worker).await,
            };
            done.map_err(|error| Failed { worker, error })
        });
    }
    while let Some(done) = tasks.join_next().await {
        if let Err(failed) = done.expect("a worker neither panics nor is aborted") {
            tasks.shutdown().await;
            // That it failed is known already.
            let _ = shared.attachment.close().await;
            return Ok(Outcome::Failed(failed));
        }
    }
    shared.attachment.close().await?;
    shared.teller.tell_rest().map_err(RoleError::untold)?;
    Ok(Outcome::Done)
}
