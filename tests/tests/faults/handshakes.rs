//! Floods of TLS handshakes from one address, and clients of other addresses beside them.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tests::{Process, certificates::Certificates};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{QUIET, Row, SECOND, block_on, float};

pub(crate) const ROWS: &[Row] = &[
    (
        "3,000 TLS connections a second from one address, each with a ClientHello and nothing more",
        "at least 99 % of the others get through, with a round trip of 100 ms",
        || flood(true),
    ),
    (
        "3,000 TLS connections a second from one address, without a byte",
        "at least 99 % of the others get through, with a round trip of 100 ms",
        || flood(false),
    ),
];

const RATE: u32 = 3_000;
const LASTS: Duration = Duration::from_secs(4);

/// The connections of the flood that are open at once. The server gives up most of them before.
const OPEN: usize = 4_000;

const HONEST: u8 = 25;
const ROUND_TRIP: Duration = Duration::from_millis(100);

fn flood(with_hello: bool) -> String {
    tests::raise_file_limit();
    let certificates = Certificates::new();
    let directory = certificates.directory("service1");
    let service1 = Process::start("service1", &[("EDGE_TLS_DIR", &directory), QUIET]);
    let config = config(&certificates);
    let (address, stop) = (service1.http(), Arc::new(AtomicBool::new(false)));
    let (sent, honest) = thread::scope(|scope| {
        let honest = scope.spawn(|| honest(address, &config, &stop));
        let hello = if with_hello {
            hello(&config)
        } else {
            Vec::new()
        };
        let sent = send_flood(address, &hello);
        stop.store(true, Ordering::Relaxed);
        (sent, honest.join().expect("no panic"))
    });
    let served = honest.iter().filter(|result| result.is_ok()).count();
    let given_up = service1.metric("tls_handshake_failures_total");
    let shown = format!(
        "{served} of {} others, beside {:.0} a second, of which {given_up} were given up in all",
        honest.len(),
        float(sent) / LASTS.as_secs_f64(),
    );
    assert!(given_up > float(sent) / 2.0, "{shown}");
    let failed = honest.len() - served;
    let first = honest.into_iter().find_map(Result::err);
    assert!(failed * 100 <= served + failed, "{shown}; {first:?}");
    shown
}

fn config(certificates: &Certificates) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(certificates.authority.certificate().as_bytes());
    roots.add(authority.expect("PEM")).expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports them");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

fn client(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("localhost").expect("a name");
    ClientConnection::new(config.clone(), name).expect("it is configured")
}

fn hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    take_output(&mut client(config))
}

/// What the client wants to send.
fn take_output(client: &mut ClientConnection) -> Vec<u8> {
    let mut output = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut output).expect("a vector takes it");
    }
    output
}

async fn connect(from: [u8; 4], to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::from(from), 0).into())?;
    socket.connect(to).await
}

/// Opens connections at the rate. Returns their number.
fn send_flood(address: SocketAddr, hello: &[u8]) -> usize {
    block_on(async {
        let (begin, mut sent, mut open) = (Instant::now(), 0, VecDeque::new());
        while begin.elapsed() < LASTS {
            let due = begin.elapsed().as_secs_f64() * f64::from(RATE);
            if float(sent) >= due {
                sleep(Duration::from_millis(1)).await;
                continue;
            }
            let Ok(mut connection) = connect([127, 0, 0, 1], address).await else {
                continue;
            };
            let _ = connection.write_all(hello).await; // it may be closed already
            sent += 1;
            open.push_back(connection);
            if open.len() > OPEN {
                open.pop_front();
            }
        }
        sent
    })
}

/// Clients of other addresses, which come again and again. Returns how each request went.
fn honest(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    stop: &Arc<AtomicBool>,
) -> Vec<io::Result<()>> {
    block_on(async {
        let mut clients = JoinSet::new();
        for number in 0..HONEST {
            let (config, stop) = (config.clone(), stop.clone());
            clients.spawn(async move {
                let mut results = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let asked = ask([127, 0, 1, number], address, &config);
                    let result = timeout(5 * SECOND, asked).await;
                    results.push(result.unwrap_or_else(|late| Err(late.into())));
                }
                results
            });
        }
        let results = clients.join_all().await;
        results.into_iter().flatten().collect()
    })
}

/// Sends a request over a new connection. Each flight of the client takes a round trip.
async fn ask(from: [u8; 4], to: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<()> {
    let mut client = client(config);
    let mut socket = connect(from, to).await?;
    let mut buffer = vec![0; 16 * 1_024];
    let request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut is_asked = false;
    loop {
        if !client.is_handshaking() && !is_asked {
            io::Write::write_all(&mut client.writer(), request)?;
            is_asked = true;
        }
        sleep(ROUND_TRIP).await;
        socket.write_all(&take_output(&mut client)).await?;
        let read = socket.read(&mut buffer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut received = &buffer[..read];
        while !received.is_empty() {
            client.read_tls(&mut received)?;
            let state = client.process_new_packets().map_err(io::Error::other)?;
            if state.plaintext_bytes_to_read() > 0 {
                let mut response = [0; 12];
                io::Read::read_exact(&mut client.reader(), &mut response)?;
                let is_served = response == *b"HTTP/1.1 200";
                return is_served
                    .then_some(())
                    .ok_or(io::ErrorKind::InvalidData.into());
            }
        }
    }
}
