//! The way to the local node.

use std::time::Duration;

use trunkline::{Attachment, Job, JobName};

use crate::{arguments::EndArguments, failure::Failure, interrupt::Interrupt};

/// Attaches to the node at the socket that was named.
pub(crate) async fn attach(arguments: &EndArguments) -> Result<Attachment, Failure> {
    let software = concat!("trunkline-cli/", env!("CARGO_PKG_VERSION"));
    let builder = Attachment::builder().software(software);
    let builder = builder.retry_first_connect(Duration::from_secs(arguments.wait.into()));
    let builder = match arguments.patience {
        Some(seconds) => builder.patience(Duration::from_secs(seconds.into())),
        None => builder,
    };
    builder.connect(&arguments.socket).await.map_err(Failure::NoNode)
}

/// The run of the job that was named.
pub(crate) fn job(attachment: &Attachment, name: &JobName, arguments: &EndArguments) -> Result<Job, Failure> {
    attachment.job(name, &arguments.run).map_err(Failure::NotReached)
}

/// Lets the last word of each stream reach the node. How the streams ended is known; what else goes wrong here, such as a
/// node that died with them, adds nothing to it. A node that does not take it may keep this waiting for seconds; a
/// signal ends that.
pub(crate) async fn close(attachment: Attachment, interrupt: &mut Interrupt) {
    let _ = interrupt.unless(attachment.close()).await;
}
