//! A process that is a node: the node is embedded, and all its mappers and reducers are tasks over its attachment.

use std::{io, process::ExitCode, sync::Arc};

use trunkline::{Attachment, node::NodeConfig};

use super::{
    RoleError, Word, Words,
    crew::{self, Outcome, Shared},
    serve,
};
use crate::{
    cli::NodeSeat,
    events::Teller,
    plan::{Plan, node_config},
};

/// The process `wordcount node`.
pub(crate) fn main(seat: &NodeSeat) -> ExitCode {
    // As the daemon does, so that its log is the same. Standard output is for the launcher.
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).init();
    serve(|words| run(seat, words))
}

async fn run(seat: &NodeSeat, mut words: Words) -> Result<(), RoleError> {
    let plan = Arc::new(Plan::read(&seat.plan).map_err(RoleError::launcher("cannot read the plan"))?);
    let mut config = NodeConfig::load(&node_config(&seat.plan, &plan.nodes[seat.index]))?;
    // A daemon of this configuration would serve processes. This one has its own program only.
    config.local = None;
    let attachment = Attachment::builder().software("wordcount node").embedded(config).await?;
    let workers: Vec<_> = plan.workers_on(seat.index).collect();
    let teller = Teller::new(&plan, &workers, io::stdout());
    teller.ready().map_err(RoleError::untold)?;
    // A node that could not start is started again with all others, and must not find streams then.
    words.wait_for(Word::Open).await;
    let shared = Shared { folder: seat.plan.as_path().into(), plan: Arc::clone(&plan), attachment, teller, words };
    match crew::run(shared, workers).await? {
        Outcome::Done => Ok(()),
        Outcome::Failed(failed) => {
            Err(RoleError::Worker { name: plan.name(failed.worker), error: Box::new(failed.error) })
        }
    }
}
