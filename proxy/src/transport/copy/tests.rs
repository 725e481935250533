use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::*;
use crate::config::StatsConfig;
use crate::stats::Store;

/// A connected pair.
async fn tcp() -> (TcpStream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (a, b) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (a.unwrap(), b.unwrap().0.into())
}

/// Bytes that differ wherever they are misplaced.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let words = (0..len.div_ceil(8) as u64).map(|i| (i ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).take(len).collect()
}

struct RelayOutcome {
    to_upstream: u64,
    to_downstream: u64,
    end: RelayEnd,
}

async fn relay(down: &mut Stream, up: &mut Stream, options: RelayOptions<'_>) -> RelayOutcome {
    let mut relay = Relay::new(options);
    let end = relay.run(down, up).await;
    let (to_upstream, to_downstream) = relay.moved();
    RelayOutcome { to_upstream, to_downstream, end }
}

fn relayed(
    mut down: Stream,
    mut up: Stream,
    options: RelayOptions<'static>,
) -> tokio::task::JoinHandle<(RelayOutcome, Stream, Stream)> {
    tokio::spawn(async move {
        let outcome = relay(&mut down, &mut up, options).await;
        (outcome, down, up)
    })
}

#[tokio::test]
async fn bulk_both_ways_at_once() {
    let ((mut client, down), (mut server, up)) = (tcp().await, tcp().await);
    let store = Store::new(1, &StatsConfig::default());
    let counter = store.root().counter("bytes");
    let counters: &'static [&'static Counter] = Box::leak(Box::new([&*Box::leak(Box::new(counter.clone()))]));
    let options = RelayOptions { to_upstream: counters, ..RelayOptions::default() };
    let task = relayed(down, up, options);
    let (request, response) = (pattern(5 << 20, 1), pattern((9 << 20) + 7, 2));
    let (a, b) = (request.clone(), response.clone());
    let (client_side, server_side) = tokio::join!(
        async {
            let (mut r, mut w) = client.split();
            let (mut got, sent) = (Vec::new(), async { w.write_all(&a).await.and(w.shutdown().await) });
            let (read, sent) = tokio::join!(r.read_to_end(&mut got), sent);
            read.and(sent.map(|()| 0)).map(|_| got)
        },
        async {
            let (mut r, mut w) = server.split();
            let (mut got, sent) = (Vec::new(), async { w.write_all(&b).await.and(w.shutdown().await) });
            let (read, sent) = tokio::join!(r.read_to_end(&mut got), sent);
            read.and(sent.map(|()| 0)).map(|_| got)
        }
    );
    assert!(client_side.unwrap() == response && server_side.unwrap() == request);
    let (outcome, ..) = task.await.unwrap();
    assert_eq!((outcome.to_upstream, outcome.to_downstream), (request.len() as u64, response.len() as u64));
    assert_eq!(counter.value(), request.len() as u64);
    assert!(matches!(outcome.end, RelayEnd::DownstreamClosed | RelayEnd::UpstreamClosed));
}

#[tokio::test]
async fn one_side_may_go_on_when_the_other_has_ended() {
    let ((mut client, down), (mut server, up)) = (tcp().await, tcp().await);
    let task = relayed(down, up, RelayOptions::default());
    client.write_all(b"request").await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    server.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"request");
    let response = pattern(1 << 20, 3);
    server.write_all(&response).await.unwrap();
    server.shutdown().await.unwrap();
    got.clear();
    client.read_to_end(&mut got).await.unwrap();
    assert!(got == response);
    let (outcome, ..) = task.await.unwrap();
    assert!(matches!(outcome.end, RelayEnd::DownstreamClosed), "{:?}", outcome.end);
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_writer_and_loses_nothing() {
    let ((mut client, down), (mut server, up)) = (tcp().await, tcp().await);
    // Fixed sizes, or the system lets them grow to any length.
    socket2::SockRef::from(&server).set_recv_buffer_size(1 << 16).unwrap();
    socket2::SockRef::from(down.tcp().unwrap()).set_recv_buffer_size(1 << 16).unwrap();
    socket2::SockRef::from(up.tcp().unwrap()).set_send_buffer_size(1 << 16).unwrap();
    socket2::SockRef::from(&client).set_send_buffer_size(1 << 16).unwrap();
    let task = relayed(down, up, RelayOptions::default());
    let data = pattern(16 << 20, 4);
    // What fits into the sockets and the pipe goes; then the client is held up.
    let mut sent = 0;
    while let Ok(n) = timeout(Duration::from_millis(200), client.write(&data[sent..])).await {
        sent += n.unwrap();
        assert!(sent < data.len(), "nothing held it up");
    }
    let rest = tokio::spawn({
        let data = data.clone();
        async move {
            client.write_all(&data[sent..]).await.unwrap();
            client.shutdown().await.unwrap();
            client
        }
    });
    let mut got = Vec::new();
    server.read_to_end(&mut got).await.unwrap();
    assert!(got == data);
    drop((rest.await.unwrap(), server));
    task.await.unwrap();
}

#[tokio::test]
async fn nothing_is_held_while_quiet() {
    let ((mut client, mut down), (mut server, mut up)) = (tcp().await, tcp().await);
    let mut relay = Relay::new(RelayOptions::default());
    let data = pattern(4 << 20, 5);
    let expected = data.clone();
    let exchange = async {
        let send = async { client.write_all(&data).await.unwrap() };
        let receive = async {
            let mut got = vec![0; expected.len()];
            server.read_exact(&mut got).await.unwrap();
            assert!(got == expected);
        };
        tokio::join!(send, receive);
        sleep(Duration::from_millis(20)).await;
    };
    tokio::select! {
        end = std::future::poll_fn(|cx| relay.poll(&mut down, &mut up, cx)) => panic!("{end:?}"),
        () = exchange => {}
    }
    assert!(matches!(relay.to_upstream.state, State::Open));
    assert!(matches!(relay.to_upstream.method, Method::Splice { .. }), "bulk was seen");
    assert!(size_of::<Relay<'_>>() <= 384, "{}", size_of::<Relay<'_>>());
}

#[tokio::test]
async fn a_limit_bounds_what_is_held() {
    let ((mut client, mut down), (mut server, mut up)) = (tcp().await, tcp().await);
    let options = RelayOptions { buffer_limit: Some(4096), ..RelayOptions::default() };
    let mut relay = Relay::new(options);
    let data = pattern(1 << 20, 7);
    let exchange = async {
        let mut got = vec![0; data.len()];
        let (sent, read) = tokio::join!(client.write_all(&data), server.read_exact(&mut got));
        sent.unwrap();
        read.unwrap();
        assert!(got == data);
    };
    tokio::select! {
        end = relay.run(&mut down, &mut up) => panic!("{end:?}"),
        () = exchange => {}
    }
    assert!(matches!(relay.to_upstream.method, Method::BufferOnly), "a pipe holds more");
    assert_eq!(relay.to_upstream.chunk, 4096);
}

#[tokio::test]
async fn left_and_taken_up_again_it_loses_nothing() {
    let ((mut client, mut down), (mut server, mut up)) = (tcp().await, tcp().await);
    let mut relay = Relay::new(RelayOptions::default());
    let data = pattern(3 << 20, 11);
    let expected = data.clone();
    let sender = tokio::spawn(async move {
        client.write_all(&data).await.unwrap();
        client.shutdown().await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
    });
    let receiver = tokio::spawn(async move {
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        got
    });
    // Interrupted at whatever it is doing, again and again.
    let end = loop {
        tokio::select! {
            biased;
            end = relay.run(&mut down, &mut up) => break end,
            () = tokio::task::yield_now() => {}
        }
    };
    assert!(matches!(end, RelayEnd::DownstreamClosed), "{end:?}");
    assert!(receiver.await.unwrap() == expected);
    assert_eq!(relay.moved(), (expected.len() as u64, 0));
    drop((down, up));
    sender.await.unwrap();
}

#[tokio::test]
async fn small_messages_leave_the_kernel_path() {
    let mut direction = Direction::new(&[], None);
    for _ in 0..4 {
        direction.after_read(BULK_READ);
    }
    assert!(matches!(direction.method, Method::Splice { .. }));
    for _ in 0..SMALL_MOVES {
        direction.after_read(100);
    }
    assert!(matches!(direction.method, Method::Buffer { .. }));
    for _ in 0..100 {
        direction.after_read(BULK_READ);
        direction.after_read(100);
    }
    assert!(matches!(direction.method, Method::Buffer { .. }), "not in a row");
}

#[tokio::test]
async fn a_reset_is_told_apart() {
    let ((client, down), (_server, up)) = (tcp().await, tcp().await);
    let task = relayed(down, up, RelayOptions::default());
    Stream::Tcp(client).set_reset_on_close();
    let (outcome, ..) = task.await.unwrap();
    assert!(matches!(outcome.end, RelayEnd::DownstreamFailed(ref e) if e.kind() == io::ErrorKind::ConnectionReset));
    let ((_client, down), (server, up)) = (tcp().await, tcp().await);
    let task = relayed(down, up, RelayOptions::default());
    Stream::Tcp(server).set_reset_on_close();
    let (outcome, ..) = task.await.unwrap();
    assert!(matches!(outcome.end, RelayEnd::UpstreamFailed(_)));
}

fn memory() -> (tokio::io::DuplexStream, Stream) {
    let (peer, ours) = tokio::io::duplex(1 << 12);
    (peer, ours.into())
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn silence_ends_it_and_words_prolong_it() {
    let ((mut client, down), (mut server, up)) = (memory(), memory());
    let began = Instant::now();
    let task = relayed(down, up, RelayOptions { idle_timeout: Some(10 * SECOND), ..RelayOptions::default() });
    for _ in 0..3 {
        sleep(9 * SECOND).await;
        client.write_all(b"a").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'a');
    }
    let (outcome, ..) = task.await.unwrap();
    assert!(matches!(outcome.end, RelayEnd::Idle));
    assert_eq!((began.elapsed().as_secs(), outcome.to_upstream), (37, 3));
}

#[tokio::test(start_paused = true)]
async fn each_side_has_its_own_patience() {
    // The upstream takes nothing more: its connection is quiet while the downstream one is not.
    let ((mut client, down), (_server, up)) = (memory(), memory());
    let began = Instant::now();
    let options = RelayOptions { upstream_idle_timeout: Some(10 * SECOND), ..RelayOptions::default() };
    let task = relayed(down, up, options);
    client.write_all(&[0; 4096]).await.unwrap();
    sleep(9 * SECOND).await;
    client.write_all(b"a").await.unwrap();
    let (outcome, ..) = task.await.unwrap();
    assert!(matches!(outcome.end, RelayEnd::Idle));
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_holds_whatever_happens() {
    let ((mut client, down), (mut server, up)) = (memory(), memory());
    let deadline = Some(Instant::now() + 5 * SECOND);
    let options = RelayOptions { idle_timeout: Some(3 * SECOND), deadline, ..RelayOptions::default() };
    let task = relayed(down, up, options);
    let talk = async {
        loop {
            client.write_all(b"a").await.unwrap();
            server.read_u8().await.unwrap();
            sleep(SECOND).await;
        }
    };
    let (outcome, ..) = tokio::select! {
        done = task => done.unwrap(),
        () = talk => unreachable!(),
    };
    assert!(matches!(outcome.end, RelayEnd::Deadline));
}

#[tokio::test]
async fn bytes_read_ahead_go_first() {
    let ((mut client, down), (mut server, up)) = (tcp().await, tcp().await);
    let down = Stream::prefixed(bytes::Bytes::from_static(b"peeked "), down);
    let task = relayed(down, up, RelayOptions::default());
    client.write_all(b"and sent").await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    server.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"peeked and sent");
    drop((client, server));
    task.await.unwrap();
}

mod any {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However bytes come, and whatever fits between, they arrive.
        #[test]
        fn whatever_the_pieces(
            pieces in proptest::collection::vec(0usize..40_000, 0..12),
            capacity in 1usize..20_000,
            reads in 1usize..9_000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let sent = pattern(pieces.iter().sum(), 9);
            let got = runtime.block_on(async {
                let ((mut client, down), (mut server, up)) = {
                    let ((a, b), (c, d)) = (tokio::io::duplex(capacity), tokio::io::duplex(capacity));
                    ((a, Stream::from(b)), (c, Stream::from(d)))
                };
                let task = relayed(down, up, RelayOptions::default());
                let data = sent.clone();
                let sender = tokio::spawn(async move {
                    let mut at = 0;
                    for piece in pieces {
                        client.write_all(&data[at..at + piece]).await.unwrap();
                        at += piece;
                        tokio::task::yield_now().await;
                    }
                    client.shutdown().await.unwrap();
                    client
                });
                let mut got = Vec::new();
                let mut buffer = vec![0; reads];
                loop {
                    match server.read(&mut buffer).await.unwrap() {
                        0 => break,
                        n => got.extend_from_slice(&buffer[..n]),
                    }
                }
                drop((server, sender.await.unwrap()));
                assert_eq!(task.await.unwrap().0.to_upstream, got.len() as u64);
                got
            });
            prop_assert!(got == sent);
        }
    }
}
