//! A node on the link's own thread, and the link to it (docs/adr/0008).

use std::sync::Arc;

use tracing::Instrument as _;
use trunkline_certs::Identity;
use trunkline_node::{
    config::NodeConfig,
    embedded::{self, EmbeddedNode, LocalLink},
};

use super::{
    Shared,
    connect::{Answer, Greeting, Options},
    local::Local,
    thread::Link,
};
use crate::error::Error;

/// Starts the node, serves the link, and drains the node. Returns whether everything was said to the node.
pub(super) async fn serve(config: NodeConfig, options: &Options, shared: &Arc<Shared>, answer: Answer) -> bool {
    shared.patience.learn(config.limits.patience);
    let (node, link) = match start(config, &options.software) {
        Ok(started) => started,
        Err(error) => {
            let _ = answer.send(Err(error));
            return false;
        }
    };
    let id = node.id().clone();
    let span = tracing::debug_span!("attachment", node = %id, socket = %"embedded");
    let link = Link::new(Arc::clone(shared), Local::new(link), id.clone(), format!("the embedded node {id}"));
    if answer.send(Ok(Greeting::new(shared, id, node.cluster().to_string()))).is_err() {
        return false;
    }
    let clean = link.run().instrument(span).await;
    node.drain("its program detached", shared.ready.hurried()).await;
    clean
}

fn start(config: NodeConfig, software: &str) -> Result<(EmbeddedNode, LocalLink), Error> {
    let files = &config.identity;
    let identity = Identity::load(&files.certificate, &files.key, &files.trust).map_err(Error::node)?;
    let node = embedded::start(config, identity).map_err(Error::node)?;
    let link = node.attach(software).map_err(|refusal| Error::node(refusal.text))?;
    Ok((node, link))
}
