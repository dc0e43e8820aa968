//! Thousands of peers of one daemon in one process: an embedded node each, with an identity of its own, on a few threads.
//!
//! Each peer's [`Program`] speaks frames to its node with the session's sending halves, as the SDK does on a thread for each
//! attachment; here thousands of them share a thread.

mod program;

use std::{net::SocketAddr, path::PathBuf, rc::Rc, sync::Arc, thread};

use serde::{Deserialize, Serialize};
use tokio::{
    runtime,
    sync::{Semaphore, mpsc, watch},
    task::{JoinSet, LocalSet},
    time::Instant,
};
use trunkline::node::{IdentityConfig, NodeConfig, PeerConfig};
use trunkline_certs::{Authority, Identity, NodeRequest};
use trunkline_node::embedded;

use self::program::Program;
use super::{Parent, Source, Total, say};
use crate::error::BenchError;

/// The job of all of them.
pub(crate) const JOB: &str = "bench";
/// The consumer that takes one empty stream of each peer, which brings its trunk up.
pub(crate) const MESH: &str = "mesh";
/// The consumer that gathers.
pub(crate) const GATHER: &str = "gather";

/// All peers of one daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Peers {
    /// Where the CA of the cluster lies.
    pub(crate) ca: PathBuf,
    /// The daemon's name.
    pub(crate) daemon: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// How many peers.
    pub(crate) peers: usize,
    /// Streams of each.
    pub(crate) streams_per_peer: usize,
    /// Messages of each stream.
    pub(crate) messages: u64,
    /// Their length.
    pub(crate) message_bytes: usize,
    /// Peers that dial at the same time.
    pub(crate) dials_at_once: usize,
    /// Threads that the peers share.
    pub(crate) threads: usize,
}

/// What the peers do next. Each is answered by [`Phase`] when all of them have done it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Waits.
    Start,
    /// Every peer starts its node, dials, and opens and finishes one empty stream: [`Peers::dials_at_once`] of them at a time.
    Mesh,
    /// Every peer opens its streams.
    Open,
    /// Every stream sends its messages and finishes.
    Gather,
    /// Every peer ends.
    Leave,
}

/// What a step took.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Phase {
    /// From the order until the last peer was done.
    pub(crate) seconds: f64,
    /// What was sent in it.
    pub(crate) sent: Total,
}

impl Peers {
    pub(crate) async fn run(self, parent: &mut Parent) -> Result<(), BenchError> {
        let identities = self.identities()?;
        let (steps, step) = watch::channel(Step::Start);
        // Every peer says one thing for each step.
        let (tell, mut told) = mpsc::channel(self.peers.max(1));
        let dials = Arc::new(Semaphore::new(self.dials_at_once.max(1)));
        let mut shares: Vec<Vec<(usize, Identity)>> = vec![Vec::new(); self.threads.max(1)];
        for (peer, identity) in identities.into_iter().enumerate() {
            let thread = peer % shares.len();
            shares[thread].push((peer, identity));
        }
        for share in shares {
            let (plan, dials, step, tell) = (self.clone(), Arc::clone(&dials), step.clone(), tell.clone());
            let start = move || serve(plan, share, &dials, &step, &tell);
            thread::Builder::new().name("peers".to_owned()).spawn(start).map_err(BenchError::io("start a thread"))?;
        }
        say(())?;
        loop {
            let next: Step = match parent.order().await {
                Err(BenchError::Orphan) => return Ok(()),
                order => order?,
            };
            let from = Instant::now();
            steps.send_replace(next);
            let mut sent = Total::default();
            for _ in 0..self.peers {
                let told: Result<Total, BenchError> = told.recv().await.ok_or(BenchError::Orphan)?;
                sent.merge(told?);
            }
            say(Phase { seconds: from.elapsed().as_secs_f64(), sent })?;
        }
    }

    fn identities(&self) -> Result<Vec<Identity>, BenchError> {
        let failed = BenchError::peer::<String>("the peers' identities");
        let authority = Authority::load(&self.ca).map_err(|error| failed(error.to_string()))?;
        let issue = |peer| {
            let id = name(peer).parse().expect("it is the name of a node");
            let files = authority.issue_node(&NodeRequest::new(id)).map_err(|error| failed(error.to_string()))?;
            Identity::from_files(&files).map_err(|error| failed(error.to_string()))
        };
        (0..self.peers).map(issue).collect()
    }

    fn config(&self) -> Result<NodeConfig, BenchError> {
        // The identity is given beside it, and comes from no file.
        let files =
            IdentityConfig { certificate: "node.pem".into(), key: "node.key".into(), trust: "trust.pem".into() };
        let mut config = NodeConfig::new(SocketAddr::new(self.address.ip(), 0), files);
        let id = self.daemon.parse().map_err(|error| BenchError::Option(format!("node {}: {error}", self.daemon)))?;
        config.peers = vec![PeerConfig { id, addresses: vec![self.address.to_string()] }];
        Ok(config)
    }
}

/// What peers are called, and their producers: this and a number.
const NAME: &str = "peer-";

fn name(peer: usize) -> String {
    format!("{NAME}{peer}")
}

/// Which of all streams of all peers it is: the mesh's of a peer, which is its first, and then its others.
///
/// # Errors
/// [`BenchError::Inexact`] when no peer is called so.
pub(crate) fn stream(producer: &str, number: u64, streams_per_peer: usize) -> Result<usize, BenchError> {
    let peer = producer.strip_prefix(NAME).and_then(|peer| peer.parse::<usize>().ok());
    let peer = peer.ok_or_else(|| BenchError::Inexact(format!("{producer} is none of the peers")))?;
    Ok(peer * (streams_per_peer + 1) + usize::try_from(number).unwrap_or(usize::MAX))
}

/// One thread's share of the peers.
fn serve(
    plan: Peers,
    share: Vec<(usize, Identity)>,
    dials: &Arc<Semaphore>,
    step: &watch::Receiver<Step>,
    tell: &mpsc::Sender<Result<Total, BenchError>>,
) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Nobody listens when another thread has failed before.
            let _ = tell.blocking_send(Err(BenchError::Io("start a runtime".to_owned(), error)));
            return;
        }
    };
    let source = Rc::new(Source::new(plan.message_bytes));
    let plan = Rc::new(plan);
    LocalSet::new().block_on(&runtime, async {
        let mut peers = JoinSet::new();
        for (peer, identity) in share {
            let (plan, source, dials) = (Rc::clone(&plan), Rc::clone(&source), Arc::clone(dials));
            let (step, tell) = (step.clone(), tell.clone());
            peers.spawn_local(async move {
                if let Err(error) = live(&plan, peer, identity, source, &dials, step, &tell).await {
                    let error = BenchError::Peer("a peer", format!("{}: {error}", name(peer)));
                    let _ = tell.send(Err(error)).await;
                }
            });
        }
        while peers.join_next().await.is_some() {}
    });
}

/// One peer, from its start to the end of the process.
async fn live(
    plan: &Peers,
    peer: usize,
    identity: Identity,
    source: Rc<Source>,
    dials: &Semaphore,
    mut steps: watch::Receiver<Step>,
    tell: &mpsc::Sender<Result<Total, BenchError>>,
) -> Result<(), BenchError> {
    if steps.wait_for(|&step| step >= Step::Mesh).await.is_err() {
        return Ok(());
    }
    let dialling = dials.acquire().await.map_err(BenchError::peer("the turns to dial"))?;
    let node = embedded::start(plan.config()?, identity).map_err(BenchError::peer("its node"))?;
    let link = node.attach("trunkline-bench").map_err(|refusal| BenchError::Peer("its node", refusal.text))?;
    let mut program = Program::new(link, plan, peer, source);
    program.open(MESH)?;
    program.send_on_all(0)?;
    program.serve(Program::all_finished).await?;
    program.end();
    drop(dialling);
    done(tell, Total::default()).await?;

    if !program.until(&mut steps, Step::Open).await? {
        return Ok(());
    }
    for _ in 0..plan.streams_per_peer {
        program.open(GATHER)?;
    }
    program.serve(Program::all_accepted).await?;
    done(tell, Total::default()).await?;

    if !program.until(&mut steps, Step::Gather).await? {
        return Ok(());
    }
    program.send_on_all(plan.messages)?;
    program.serve(Program::all_finished).await?;
    done(tell, program.end()).await?;
    // Its trunk stays up until the process ends.
    program.until(&mut steps, Step::Leave).await?;
    drop(node);
    Ok(())
}

async fn done(tell: &mpsc::Sender<Result<Total, BenchError>>, sent: Total) -> Result<(), BenchError> {
    tell.send(Ok(sent)).await.map_err(|_| BenchError::Orphan)
}
