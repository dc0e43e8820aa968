//! Requests and replies over a TCP socket with TLS 1.3: the socket per pair that a stream stands in for.

use bytes::Bytes;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use trunkline_certs::SERVER_NAME;

use super::{peer, tls};
use crate::{
    error::BenchError,
    processes::NodeFiles,
    roles::{Parent, RoundTrips, Source, say},
};

/// Sends requests, and times the replies.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TlsAsk {
    /// Who it is.
    pub(crate) files: NodeFiles,
    /// How long requests are, and replies.
    pub(crate) size: usize,
}

/// Sends each request back.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TlsAnswer {
    /// Who it is.
    pub(crate) files: NodeFiles,
    /// How long requests are.
    pub(crate) size: usize,
}

impl TlsAsk {
    /// Says when it is connected; then what [`Ask`](crate::roles::Ask) says.
    pub(crate) async fn run(self, parent: &mut Parent) -> Result<(), BenchError> {
        let failed = || BenchError::io("talk over TCP and TLS");
        let (_, config) = tls(&self.files)?;
        let socket = TcpStream::connect(peer(&self.files)?.1).await.map_err(failed())?;
        socket.set_nodelay(true).map_err(failed())?;
        let name = ServerName::try_from(SERVER_NAME).map_err(BenchError::peer("the server's name"))?;
        let mut stream = TlsConnector::from(config).connect(name, socket).await.map_err(failed())?;
        say(())?;
        let source = Source::new(self.size);
        let mut buffer = vec![0; self.size];
        while let Ok(count) = parent.order().await {
            let round_trip = async |request: Bytes| {
                exchange(&mut stream, &request, &mut buffer).await.map_err(failed())?;
                Ok(Bytes::copy_from_slice(&buffer))
            };
            say(RoundTrips::of(count, &source, round_trip).await?)?;
        }
        Ok(())
    }
}

async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
    reply: &mut [u8],
) -> std::io::Result<()> {
    stream.write_all(request).await?;
    stream.flush().await?;
    stream.read_exact(reply).await?;
    Ok(())
}

impl TlsAnswer {
    /// Says when it listens, and replies until it is needed no more.
    pub(crate) async fn run(self, parent: &mut Parent) -> Result<(), BenchError> {
        let failed = || BenchError::io("answer over TCP and TLS");
        let (config, _) = tls(&self.files)?;
        let listener = TcpListener::bind(self.files.listen).await.map_err(failed())?;
        say(())?;
        let answer = async {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            let mut stream = TlsAcceptor::from(config).accept(socket).await?;
            let mut buffer = vec![0; self.size];
            while stream.read_exact(&mut buffer).await.is_ok() {
                stream.write_all(&buffer).await?;
                stream.flush().await?;
            }
            Ok(())
        };
        tokio::select! {
            answered = answer => answered.map_err(failed()),
            () = parent.done() => Ok(()),
        }
    }
}
