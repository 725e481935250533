//! A client and a server against each other, in every order; and what a peer may not do.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::config::Http2Options;
use crate::http::HeaderMap;
use crate::http::body::Frame;
use crate::http::h2::frame::{HEADER, Head, PREFACE, kind};
use crate::http::head::{RequestHead, Scheme};
use crate::stream_info::Protocol;

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn request(method: Method) -> RequestHead {
    RequestHead {
        method,
        scheme: Scheme::Http,
        authority: Some(HeaderValue::from_static("a.example")),
        path: "/x?y".to_owned(),
        headers: HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("*/*"))]),
        protocol: Protocol::Http2,
        upgrade: None,
        spelling: None,
    }
}

/// Moves up to `max` bytes from one end's buffer to the other end; how many.
fn carry(from: &mut Core, wire: &mut Vec<u8>, to: &mut Core, max: usize) -> usize {
    let n = from.out.len().min(max);
    wire.extend(from.out.drain(..n));
    from.pass_on();
    if to.is_server() && !to.has_settings() && wire.starts_with(PREFACE) {
        wire.drain(..PREFACE.len());
    }
    while let Some(head) = Head::read(wire) {
        if wire.len() < HEADER + head.len {
            break;
        }
        let frame: Vec<u8> = wire.drain(..HEADER + head.len).skip(HEADER).collect();
        if head.kind == kind::DATA {
            to.data_frame(head, frame.into());
        } else {
            to.frame(head, &frame);
        }
    }
    n
}

/// One direction of one stream.
#[derive(Default)]
struct Half {
    /// Bytes still to be sent, and whether the end is out.
    left: usize,
    ended: bool,
    /// Bytes that arrived, and what was last handed out.
    got: usize,
    held: usize,
    done: bool,
}

struct Exchange {
    client: u32,
    server: Option<u32>,
    upload: Half,
    download: Half,
    sizes: (usize, usize),
    responded: bool,
    answered: bool,
    reset: bool,
}

fn send(core: &mut Core, key: u32, half: &mut Half) {
    if half.ended {
        return;
    }
    let mut data = Bytes::from(vec![7; half.left]);
    let polled = core.poll_send(key, &cx(), &mut data, true);
    half.left = data.len();
    half.ended = polled.is_ready();
}

fn read(core: &mut Core, key: u32, half: &mut Half) {
    match core.poll_frame(key, &cx(), &mut half.held) {
        Poll::Ready(Some(Ok(Frame::Data(d)))) => half.got += d.len(),
        Poll::Ready(None) => half.done = true,
        _ => {}
    }
}

fn ends(window: u32) -> (Core, Core) {
    let options = |role| Options { stream_window: window, connection_window: 70_000, ..Options::of(role) };
    let client = Core::new(options(Role::Client), None);
    (client, Core::new(options(Role::Server), Some(Guard::new(&Http2Options::default()))))
}

/// Runs exchanges in an order of the seed's; every byte must arrive, and all that was borrowed must be back.
fn simulate(seed: u64, window: u32) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut client, mut server) = ends(window);
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let mut all: Vec<Exchange> = Vec::new();
    let mut by_server: BTreeMap<u32, usize> = BTreeMap::new();
    let begun = rng.random_range(1..12);
    for step in 0..200_000 {
        let calm = step > 2_000;
        if all.len() < begun && rng.random_bool(0.2) {
            let sizes = (rng.random_range(0..40_000), rng.random_range(0..200_000));
            let key = client.request(&request(Method::POST), false).unwrap();
            all.push(Exchange {
                client: key,
                server: None,
                upload: Half { left: sizes.0, ..Half::default() },
                download: Half { left: sizes.1, ..Half::default() },
                sizes,
                responded: false,
                answered: false,
                reset: false,
            });
        }
        carry(&mut client, &mut up, &mut server, rng.random_range(1..30_000));
        carry(&mut server, &mut down, &mut client, rng.random_range(1..30_000));
        while let Some(accepted) = server.accepted.pop_front() {
            let nth = all.iter().position(|e| e.server.is_none()).unwrap();
            assert_eq!(accepted.head.unwrap().path.as_deref(), Some(&b"/x?y"[..]));
            all[nth].server = Some(accepted.key);
            by_server.insert(accepted.key, nth);
        }
        if !all.is_empty() {
            let nth = rng.random_range(0..all.len());
            let e = &mut all[nth];
            if e.reset {
                continue;
            }
            send(&mut client, e.client, &mut e.upload);
            read(&mut client, e.client, &mut e.download);
            if !e.answered {
                e.answered = client.poll_head(e.client, &cx()).is_ready();
            }
            if let Some(key) = e.server {
                read(&mut server, key, &mut e.upload);
                e.responded = e.responded || server.respond(key, StatusCode::OK, &HeaderMap::new(), false);
                send(&mut server, key, &mut e.download);
            }
            if !calm && e.server.is_some() && rng.random_bool(0.002) {
                e.reset = true;
                client.send_reset(e.client, Reason::CANCEL);
                // Both tasks hear of it and go.
                client.stop_reading(e.client, std::mem::take(&mut e.download.held));
                if let Some(key) = e.server {
                    server.stop_reading(key, std::mem::take(&mut e.upload.held));
                }
            }
        }
        assert_eq!((client.ended, server.ended), (None, None), "step {step}");
        let over = |e: &Exchange| e.reset || (e.upload.done && e.download.done);
        if all.len() == begun && all.iter().all(over) {
            break;
        }
    }
    for e in &all {
        assert!(e.reset || (e.upload.done && e.download.done), "seed {seed} is stuck");
        assert!(e.reset || (e.upload.got, e.download.got) == e.sizes);
        client.stop_reading(e.client, e.download.held);
        client.let_go(e.client);
        if let Some(key) = e.server {
            server.stop_reading(key, e.upload.held);
            server.let_go(key);
        }
    }
    while carry(&mut client, &mut up, &mut server, usize::MAX) + carry(&mut server, &mut down, &mut client, usize::MAX)
        > 0
    {}
    for core in [&client, &server] {
        assert_eq!((core.open, core.by_id.len()), (0, 0));
        assert!(core.streams.iter().all(Option::is_none));
        assert_eq!(core.receive_window + i64::from(core.released), 70_000, "the connection's window is whole again");
    }
    assert_eq!(client.send_window, server.receive_window);
    assert_eq!(server.send_window, client.receive_window);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_and_every_window_comes_back(seed: u64, window in 600..100_000u32) {
        simulate(seed, window);
    }

    #[test]
    fn no_bytes_make_it_panic(frames in proptest::collection::vec((0u8..12, any::<u8>(), 0u32..6, proptest::collection::vec(any::<u8>(), 0..60)), 0..40)) {
        for role in [Role::Client, Role::Server] {
            let mut core = Core::new(Options::of(role), None);
            core.frame(Head { len: 0, kind: kind::SETTINGS, flags: 0, stream: 0 }, &[]);
            if role == Role::Client {
                core.request(&request(Method::GET), true).unwrap();
            }
            for (kind, flags, stream, payload) in &frames {
                let head = Head { len: payload.len(), kind: *kind, flags: *flags, stream: *stream };
                if *kind == self::kind::DATA {
                    core.data_frame(head, payload.clone().into());
                } else {
                    core.frame(head, payload);
                }
                while let Some(accepted) = core.accepted.pop_front() {
                    core.let_go(accepted.key);
                }
            }
        }
    }
}

#[test]
fn goodbye_in_two_steps() {
    let (mut client, mut server) = ends(65_535);
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let first = client.request(&request(Method::GET), true).unwrap();
    carry(&mut client, &mut up, &mut server, usize::MAX);
    let served = server.accepted.pop_front().unwrap();
    server.leave();
    // Under way when the server said so: served.
    let late = client.request(&request(Method::GET), true).unwrap();
    carry(&mut server, &mut down, &mut client, usize::MAX);
    assert!(!client.takes_streams() && client.is_going_away());
    carry(&mut client, &mut up, &mut server, usize::MAX);
    let second = server.accepted.pop_front().unwrap();
    assert!(!server.is_done());
    for key in [served.key, second.key] {
        assert!(server.respond(key, StatusCode::NO_CONTENT, &HeaderMap::new(), true));
    }
    assert!(server.is_done());
    carry(&mut server, &mut down, &mut client, usize::MAX);
    for key in [first, late] {
        assert!(matches!(client.poll_head(key, &cx()), Poll::Ready(Ok((StatusCode::NO_CONTENT, _)))));
    }
    assert!(client.is_done());
}

#[test]
fn what_a_server_did_not_look_at_is_known() {
    let (mut client, _) = ends(65_535);
    client.frame(Head { len: 0, kind: kind::SETTINGS, flags: 0, stream: 0 }, &[]);
    let (one, three) =
        (client.request(&request(Method::GET), true).unwrap(), client.request(&request(Method::GET), true).unwrap());
    client.frame(Head { len: 8, kind: kind::GOAWAY, flags: 0, stream: 0 }, &[0, 0, 0, 1, 0, 0, 0, 0]);
    assert!(client.poll_head(one, &cx()).is_pending());
    assert!(matches!(client.poll_head(three, &cx()), Poll::Ready(Err(BodyError::GoneAway))));
}

#[test]
fn a_turn_that_is_not_used_is_passed_on() {
    let (mut client, mut server) = ends(65_535);
    let mut up = Vec::new();
    let keys: Vec<u32> = (0..3).map(|_| client.request(&request(Method::POST), false).unwrap()).collect();
    carry(&mut client, &mut up, &mut server, usize::MAX);
    client.frame(Head { len: 0, kind: kind::SETTINGS, flags: 0, stream: 0 }, &[]);
    // The connection's window is used up: all three wait.
    let mut bodies = vec![Bytes::from(vec![0; 60_000]); 3];
    for (key, body) in keys.iter().zip(&mut bodies) {
        assert!(client.poll_send(*key, &cx(), body, true).is_pending() || body.is_empty());
    }
    assert_eq!(client.queue.len(), 2);
    client.frame(Head { len: 4, kind: kind::WINDOW_UPDATE, flags: 0, stream: 0 }, &1_000_000u32.to_be_bytes());
    assert_eq!(client.queue.len(), 1, "one is woken");
    client.send_reset(keys[1], Reason::CANCEL);
    client.let_go(keys[1]);
    assert_eq!(client.queue.len(), 0, "it went, so the next is");
}
