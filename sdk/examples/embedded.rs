//! Two nodes in one program, and a stream between them: no daemon and no socket of one. In earnest, each would be in a
//! program of its own, on a machine of its own, with files that `trunkline-certs node issue` wrote.
//!
//! ```text
//! cargo run --example embedded --features embedded
//! ```

use std::{
    error::Error,
    net::{SocketAddr, UdpSocket},
    path::Path,
};

use trunkline::{
    Attachment,
    node::{IdentityConfig, NodeConfig, PeerConfig},
};
use trunkline_certs::{Authority, NodeRequest};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::create(&"example".parse()?)?;
    let [here, there] = [free_address()?, free_address()?];
    let near = Attachment::embedded(config(&authority, folder.path(), "node-a", here, ("node-b", there))?).await?;
    let far = Attachment::embedded(config(&authority, folder.path(), "node-b", there, ("node-a", here))?).await?;

    let mut consumer = far.job("hello", "1")?.consumer("world")?.bind().await?;
    let mut sender = near.job("hello", "1")?.producer("me")?.open(consumer.address()).await?;
    let mut receiver = consumer.accept().await?;
    sender.send("hello, other node".into()).await?;
    let receiving = async {
        while let Some(message) = receiver.recv().await? {
            println!("{}: {}", receiver.producer(), String::from_utf8_lossy(&message));
        }
        Ok(())
    };
    tokio::try_join!(receiving, sender.finish())?;

    // Each drains its node.
    near.close().await?;
    far.close().await?;
    Ok(())
}

/// A node's files, and a configuration that names them.
fn config(
    authority: &Authority,
    folder: &Path,
    id: &str,
    listen: SocketAddr,
    (peer, address): (&str, SocketAddr),
) -> Result<NodeConfig, Box<dyn Error>> {
    let folder = folder.join(id);
    let files = authority.issue_node(&NodeRequest::new(id.parse()?))?.write_to(&folder)?;
    let identity = IdentityConfig { certificate: files.certificate, key: files.key, trust: files.trust };
    let mut config = NodeConfig::new(listen, identity);
    config.peers.push(PeerConfig { id: peer.parse()?, addresses: vec![address.to_string()] });
    Ok(config)
}

/// A port of this machine that is free at the moment.
fn free_address() -> Result<SocketAddr, std::io::Error> {
    UdpSocket::bind("127.0.0.1:0")?.local_addr()
}
