//! A process of one mapper or one reducer, attached to the daemon of its node.

use std::{io, process::ExitCode, sync::Arc};

use trunkline::Attachment;

use super::{
    RoleError, Words,
    crew::{self, Outcome, Shared},
    serve,
};
use crate::{
    cli::Seat,
    events::Teller,
    plan::{Part, Plan, Worker, local_socket},
};

/// The process `wordcount map` or `wordcount reduce`.
pub(crate) fn main(part: Part, seat: &Seat) -> ExitCode {
    serve(|words| run(part, seat, words))
}

async fn run(part: Part, seat: &Seat, words: Words) -> Result<(), RoleError> {
    let plan = Plan::read(&seat.plan).map_err(RoleError::launcher("cannot read the plan"))?;
    let worker = Worker { part, job: seat.job, index: seat.index };
    let socket = local_socket(&seat.plan, &plan.nodes[plan.node_of(worker)]);
    let attachment = Attachment::builder().software(&format!("wordcount {part}")).connect(socket).await?;
    let teller = Teller::new(&plan, &[worker], io::stdout());
    let shared = Shared { folder: seat.plan.as_path().into(), plan: Arc::new(plan), attachment, teller, words };
    match crew::run(shared, [worker]).await? {
        Outcome::Done => Ok(()),
        // The launcher calls this process by the worker's name.
        Outcome::Failed(failed) => Err(failed.error),
    }
}
