//! Requests and replies on one stream of quinn alone.

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use serde::{Deserialize, Serialize};

use super::{accept, dial, endpoint};
use crate::{
    error::BenchError,
    processes::NodeFiles,
    roles::{Parent, RoundTrips, Source, say},
};

/// Sends requests, and times the replies.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BareAsk {
    /// Who it is.
    pub(crate) files: NodeFiles,
    /// How long requests are, and replies.
    pub(crate) size: usize,
}

/// Sends each request back.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BareAnswer {
    /// Who it is.
    pub(crate) files: NodeFiles,
    /// How long requests are.
    pub(crate) size: usize,
}

impl BareAsk {
    /// Says when it is connected; then what [`Ask`](crate::roles::Ask) says.
    pub(crate) async fn run(self, parent: &mut Parent) -> Result<(), BenchError> {
        let (_endpoint, connection) = dial(&self.files).await?;
        let (mut send, mut recv) = connection.open_bi().await.map_err(BenchError::peer("quinn's open"))?;
        say(())?;
        let source = Source::new(self.size);
        let mut buffer = vec![0; self.size];
        while let Ok(count) = parent.order().await {
            let round_trip = async |request: Bytes| {
                send.write_chunk(request).await.map_err(BenchError::peer("quinn's write"))?;
                recv.read_exact(&mut buffer).await.map_err(BenchError::peer("quinn's read"))?;
                Ok(Bytes::copy_from_slice(&buffer))
            };
            say(RoundTrips::of(count, &source, round_trip).await?)?;
        }
        Ok(())
    }
}

impl BareAnswer {
    /// Says when it listens, and replies until it is needed no more.
    pub(crate) async fn run(self, parent: &mut Parent) -> Result<(), BenchError> {
        let (endpoint, _dials) = endpoint(&self.files, 1)?;
        say(())?;
        let answer = async {
            let connection = accept(&endpoint).await?;
            let (send, recv) = connection.accept_bi().await.map_err(BenchError::peer("quinn's accept"))?;
            answer(send, recv, self.size).await
        };
        tokio::select! {
            answered = answer => answered,
            () = parent.done() => Ok(()),
        }
    }
}

async fn answer(mut send: SendStream, mut recv: RecvStream, size: usize) -> Result<(), BenchError> {
    let mut buffer = vec![0; size];
    while recv.read_exact(&mut buffer).await.is_ok() {
        let reply = Bytes::copy_from_slice(&buffer);
        send.write_chunk(reply).await.map_err(BenchError::peer("quinn's write"))?;
    }
    Ok(())
}
