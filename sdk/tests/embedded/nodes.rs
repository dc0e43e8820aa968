//! The files and addresses of nodes that are embedded in a test.

use std::{
    fs::Permissions,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU8, Ordering},
};

use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use trunkline::{
    Attachment, Job,
    node::{IdentityConfig, LocalConfig, NodeConfig, PeerConfig},
};
use trunkline_certs::{Authority, NodeRequest};

/// Configurations of node-a and node-b, who know each other. Dropped, what they left is removed.
pub(crate) struct Nodes {
    pub(crate) a: NodeConfig,
    pub(crate) b: NodeConfig,
    folder: TempDir,
    /// The tests here count the sockets of their process, and start two nodes each: one at a time.
    _alone: MutexGuard<'static, ()>,
}

impl Nodes {
    pub(crate) async fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::const_new(());
        let alone = ALONE.lock().await;
        let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
        let authority = Authority::create(&"test".try_into().unwrap()).unwrap();
        let [a, b] = free_addresses();
        let config = |id: &str, listen: SocketAddr, peer: &str, peer_address: SocketAddr| {
            let files = authority.issue_node(&NodeRequest::new(id.try_into().unwrap())).unwrap();
            let own = folder.path().join(id);
            let paths = files.write_to(&own).unwrap();
            let identity = IdentityConfig { certificate: paths.certificate, key: paths.key, trust: paths.trust };
            let mut config = NodeConfig::new(listen, identity);
            config.peers = vec![PeerConfig { id: peer.try_into().unwrap(), addresses: vec![peer_address.to_string()] }];
            config
        };
        let (a, b) = (config("node-a", a, "node-b", b), config("node-b", b, "node-a", a));
        Self { a, b, folder, _alone: alone }
    }

    /// A path for a local socket, in a folder that only this user may enter.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("local.sock")
    }

    /// Lets other processes attach to node-a.
    pub(crate) fn serve_others(&mut self) -> PathBuf {
        let socket = self.socket();
        self.a.local = Some(LocalConfig { socket: socket.clone(), users: Vec::new(), groups: Vec::new() });
        socket
    }

    /// Both, embedded.
    pub(crate) async fn embed(&self) -> (Attachment, Attachment) {
        let (a, b) = tokio::join!(Attachment::embedded(self.a.clone()), Attachment::embedded(self.b.clone()));
        (a.unwrap(), b.unwrap())
    }
}

/// Two that nobody listens on, on a loopback address (127/8 has sixteen million) that no other test uses.
fn free_addresses() -> [SocketAddr; 2] {
    static TESTS: AtomicU8 = AtomicU8::new(0);
    let [_, _, high, low] = process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 1 + high % 254, low, 1 + TESTS.fetch_add(1, Ordering::Relaxed) % 254);
    let sockets = [(); 2].map(|()| UdpSocket::bind((ip, 0)).unwrap());
    sockets.map(|socket| socket.local_addr().unwrap())
}

pub(crate) fn job(attachment: &Attachment) -> Job {
    attachment.job("job", "1").unwrap()
}
