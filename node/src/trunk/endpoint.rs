//! The one UDP socket of a node and how QUIC is configured on it. Each departure from quinn's defaults says why.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use quinn::{
    AsyncUdpSocket, ClientConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, Runtime as _,
    ServerConfig, TokioRuntime, TransportConfig, UdpPoller, VarInt,
    congestion::{BbrConfig, CubicConfig, NewRenoConfig},
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
    udp::{RecvMeta, Transmit},
};
use quinn_proto::{AckFrequencyConfig, HashedConnectionIdGenerator};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::{debug, warn};
use trunkline_certs::Identity;
use trunkline_proto::id::NodeId;

use crate::config::{Congestion, Profile, TrunkConfig};

/// The most bytes of one UDP datagram over IPv4; a GSO burst is one datagram to the kernel until it is cut up.
const UDP_PAYLOAD_MAX: usize = 65_507;
/// A restarted node tells its former peers that their connections are dead. At quinn's 20 ms it would reach 50 a second.
const RESET_INTERVAL_MIN: Duration = Duration::from_millis(1);
/// What a round trip is taken for before it is measured. RFC 9002's 333 ms would make the first loss cost a second.
const DATACENTER_INITIAL_RTT: Duration = Duration::from_millis(10);
/// How long a peer may hold an ACK back. RFC 9000's 25 ms is for wireless clients.
const DATACENTER_ACK_DELAY: Duration = Duration::from_millis(2);
/// The first congestion window; RFC 9002's 12 KiB is for paths that nobody owns.
const DATACENTER_INITIAL_WINDOW_BYTES: u64 = 128 * 1024;
/// Handshakes that the acceptor has not taken up. Beyond it quinn refuses for us.
const INCOMING_MAX: usize = 4096;

/// Why a node has no UDP socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The system refused the socket.
    #[error("cannot listen on UDP {address}: {reason}{}", bind_hint(reason))]
    Bind {
        /// Where the node was to listen.
        address: SocketAddr,
        /// What the system said.
        reason: io::Error,
    },
    /// The configuration or the identity does not suit QUIC.
    #[error("cannot set up QUIC: {0}")]
    Quic(String),
}

/// What to do about an address that cannot be bound, to be put behind the reason.
pub(crate) fn bind_hint(reason: &io::Error) -> &'static str {
    match reason.kind() {
        io::ErrorKind::AddrInUse => "; is another node running there? See `listen` in the configuration",
        io::ErrorKind::AddrNotAvailable => {
            "; no interface of this machine has that address; see `listen` in the configuration"
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need the right to bind them (CAP_NET_BIND_SERVICE)",
        _ => "",
    }
}

/// Makes connection settings for each peer.
pub struct Dials {
    identity: Identity,
    transport: Arc<TransportConfig>,
}

impl fmt::Debug for Dials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dials").field("node", self.identity.node_id()).finish_non_exhaustive()
    }
}

impl Dials {
    /// Settings for a dial that takes nobody for `peer` but `peer`.
    ///
    /// # Errors
    /// [`EndpointError::Quic`] when the identity's TLS does not suit QUIC.
    pub fn config(&self, peer: &NodeId) -> Result<ClientConfig, EndpointError> {
        let tls = QuicClientConfig::try_from(self.identity.client_config(peer))
            .map_err(|error| EndpointError::Quic(error.to_string()))?;
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(Arc::clone(&self.transport));
        Ok(config)
    }
}

/// Binds the socket and sets QUIC up on it, as a node does for its trunks.
///
/// Public, so that what a node is measured against (`bench/`) runs with the very settings of the node: bare quinn with
/// other ones would tell nothing. Streams of both directions are permitted as the configuration says, unidirectional
/// ones not at all.
///
/// # Errors
/// [`EndpointError`]: the address cannot be bound, or configuration and identity do not suit QUIC.
///
/// # Panics
/// Outside of a tokio runtime with I/O enabled.
pub fn bind(listen: SocketAddr, identity: &Identity, config: &TrunkConfig) -> Result<(Endpoint, Dials), EndpointError> {
    let quic = |error: &dyn fmt::Display| EndpointError::Quic(error.to_string());
    let transport = Arc::new(transport(config).map_err(|error| quic(&error))?);

    // Both keys outlive a restart, so that the peers of a node that was killed hear of it within a round trip
    // (RFC 9000 §10.3) instead of after the idle timeout.
    let reset_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &identity.derive_key(b"stateless reset"));
    let [a, b, c, d, e, f, g, h, ..] = identity.derive_key(b"connection id");
    let cid_key = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let mut endpoint = EndpointConfig::new(Arc::new(reset_key));
    endpoint
        .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_key)))
        .min_reset_interval(RESET_INTERVAL_MIN)
        .max_udp_payload_size(config.mtu_max)
        .map_err(|error| quic(&error))?;

    let tls = QuicServerConfig::try_from(identity.server_config()).map_err(|error| quic(&error))?;
    let mut server = ServerConfig::with_crypto(Arc::new(tls));
    server
        .transport_config(Arc::clone(&transport))
        .migration(config.profile == Profile::Wan)
        .max_incoming(INCOMING_MAX);

    let socket = udp_socket(listen, config.socket_buffer_bytes)
        .map_err(|reason| EndpointError::Bind { address: listen, reason })?;
    let runtime = Arc::new(TokioRuntime);
    let socket = runtime.wrap_udp_socket(socket).map_err(|reason| EndpointError::Bind { address: listen, reason })?;
    let segments_max = UDP_PAYLOAD_MAX / usize::from(config.mtu_max);
    let socket = Arc::new(ClampedSocket { socket, segments_max });
    let endpoint = Endpoint::new_with_abstract_socket(endpoint, Some(server), socket, runtime)
        .map_err(|reason| EndpointError::Bind { address: listen, reason })?;
    Ok((endpoint, Dials { identity: identity.clone(), transport }))
}

fn transport(config: &TrunkConfig) -> Result<TransportConfig, quinn::VarIntBoundsExceeded> {
    let mut transport = TransportConfig::default();
    let mut mtu_discovery = MtuDiscoveryConfig::default();
    mtu_discovery.upper_bound(config.mtu_max);
    transport
        .max_concurrent_bidi_streams(config.streams_initial.into())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u64(config.stream_receive_window_bytes)?)
        // Credit bounds what a peer may send. A finite window here would let stalled streams stop the others.
        .receive_window(VarInt::MAX)
        .send_window(config.send_window_bytes)
        .keep_alive_interval(Some(config.keep_alive))
        .max_idle_timeout(Some(IdleTimeout::try_from(config.idle_timeout)?))
        .mtu_discovery_config(Some(mtu_discovery));
    let datacenter = config.profile == Profile::Datacenter;
    if datacenter {
        let mut acks = AckFrequencyConfig::default();
        acks.max_ack_delay(Some(DATACENTER_ACK_DELAY));
        transport.initial_rtt(DATACENTER_INITIAL_RTT).ack_frequency_config(Some(acks));
    }
    match config.congestion {
        Congestion::Cubic => {
            let mut cubic = CubicConfig::default();
            if datacenter {
                cubic.initial_window(DATACENTER_INITIAL_WINDOW_BYTES);
            }
            transport.congestion_controller_factory(Arc::new(cubic));
        }
        Congestion::NewReno => {
            let mut new_reno = NewRenoConfig::default();
            if datacenter {
                new_reno.initial_window(DATACENTER_INITIAL_WINDOW_BYTES);
            }
            transport.congestion_controller_factory(Arc::new(new_reno));
        }
        Congestion::Bbr => {
            let mut bbr = BbrConfig::default();
            if datacenter {
                bbr.initial_window(DATACENTER_INITIAL_WINDOW_BYTES);
            }
            transport.congestion_controller_factory(Arc::new(bbr));
        }
    }
    Ok(transport)
}

/// A socket for both IP versions where `listen` is `[::]`, for IPv4 alone where the machine has no IPv6.
fn udp_socket(listen: SocketAddr, buffer_bytes: usize) -> io::Result<UdpSocket> {
    let made = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP));
    let (socket, listen) = match made {
        Err(error) if listen.ip().is_unspecified() && listen.is_ipv6() => {
            warn!("no IPv6 here ({error}): listening on IPv4 alone");
            let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen.port()));
            (Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?, listen)
        }
        made => (made?, listen),
    };
    if listen.is_ipv6() && listen.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // quinn sets no buffer sizes. The kernel grants at most net.core.rmem_max and wmem_max, and reports the double.
    socket.set_recv_buffer_size(buffer_bytes)?;
    socket.set_send_buffer_size(buffer_bytes)?;
    let (receive, send) = (socket.recv_buffer_size()? / 2, socket.send_buffer_size()? / 2);
    if receive < buffer_bytes || send < buffer_bytes {
        debug!(
            "the kernel grants UDP buffers of {receive} and {send} bytes, {buffer_bytes} were asked for: raise \
             net.core.rmem_max and net.core.wmem_max"
        );
    }
    socket.bind(&listen.into())?;
    Ok(socket.into())
}

/// Keeps a burst within one UDP datagram's size: the kernel refuses a larger one, and quinn would take it for sent.
struct ClampedSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    segments_max: usize,
}

impl fmt::Debug for ClampedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}

impl AsyncUdpSocket for ClampedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [io::IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments().min(self.segments_max).max(1)
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_bound_is_told_with_its_own_remedy() {
        let told = |errno| {
            let reason = io::Error::from(errno);
            EndpointError::Bind { address: "192.0.2.1:80".parse().unwrap(), reason }.to_string()
        };
        let hints = [
            (rustix::io::Errno::ADDRINUSE, "; is another node running there? See `listen` in the configuration"),
            (
                rustix::io::Errno::ADDRNOTAVAIL,
                "; no interface of this machine has that address; see `listen` in the configuration",
            ),
            (rustix::io::Errno::ACCESS, "; ports below 1024 need the right to bind them (CAP_NET_BIND_SERVICE)"),
            (rustix::io::Errno::MFILE, "(os error 24)"),
        ];
        for (errno, hint) in hints {
            let told = told(errno);
            assert!(told.starts_with("cannot listen on UDP 192.0.2.1:80: ") && told.ends_with(hint), "{told}");
        }
    }
}
