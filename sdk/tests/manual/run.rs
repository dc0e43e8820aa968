// Runs an example of the crate's manual: on an attachment to a node of its own, which is embedded.
//
// The examples include this file, in lines that their readers do not see.

use std::{error::Error, fs::Permissions, os::unix::fs::PermissionsExt as _, time::Duration};

use trunkline::{
    Attachment,
    node::{IdentityConfig, NodeConfig},
};
use trunkline_certs::{Authority, NodeRequest};

/// Longer than any example takes; one that takes so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `example`, and ends with its error.
pub fn run<F>(example: impl FnOnce(Attachment) -> F) -> Result<(), Box<dyn Error>>
where
    F: Future<Output = Result<(), Box<dyn Error>>>,
{
    let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir()?;
    let files = Authority::create(&"manual".try_into()?)?.issue_node(&NodeRequest::new("node-a".try_into()?))?;
    let paths = files.write_to(&folder.path().join("node-a"))?;
    let identity = IdentityConfig { certificate: paths.certificate, key: paths.key, trust: paths.trust };
    let config = NodeConfig::new("127.0.0.1:0".parse()?, identity);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let attachment = Attachment::embedded(config).await?;
        let done = tokio::time::timeout(PATIENCE, example(attachment.clone())).await;
        attachment.close().await?;
        done.unwrap_or_else(|_| panic!("the example did not end within {PATIENCE:?}"))
    })
}
