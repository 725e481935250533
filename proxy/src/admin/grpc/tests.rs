use prost::Message;
use weft_proto::pb::envoy::service::status::v3::{ClientStatusRequest, ClientStatusResponse};

use crate::access_log::AccessLogs;
use crate::admin::AdminServer;
use crate::admin::tests::sources;
use crate::config::Address;
use crate::stream_info::PeerAddr;

/// Calls a method with these bytes: the answers, and how the call ended.
async fn call(method: &str, bytes: &[u8]) -> (Vec<u8>, String, String) {
    let server = AdminServer::bind(&Address::Ip("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let PeerAddr::Ip(address) = *server.local_address() else { panic!("no address") };
    let (sources, _commands) = sources();
    let serving = tokio::spawn(server.serve(sources, AccessLogs::default(), std::future::pending()));
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("http://admin{method}")).header("content-type", "application/grpc");
    let mut send = send.ready().await.unwrap();
    let (response, mut body) = send.send_request(request.body(()).unwrap(), false).unwrap();
    // The server may have answered before all of it was sent.
    let _ = body.send_data(bytes::Bytes::copy_from_slice(bytes), true);
    let response = response.await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let mut body = response.into_body();
    let mut data = Vec::new();
    while let Some(chunk) = body.data().await {
        data.extend_from_slice(&chunk.unwrap());
    }
    let trailers = body.trailers().await.unwrap().unwrap();
    serving.abort();
    connection.abort();
    let text = |name: &str| trailers.get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    (data, text("grpc-status"), text("grpc-message"))
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    out.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    out.extend_from_slice(message);
    out
}

const FETCH: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus";
const STREAM: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus";

#[tokio::test]
async fn questions_are_answered() {
    let question = framed(&ClientStatusRequest::default().encode_to_vec());
    let (one, status, _) = call(FETCH, &question).await;
    assert_eq!(status, "0");
    let length = u32::from_be_bytes(one[1..5].try_into().unwrap()) as usize;
    assert_eq!(one.len(), 5 + length);
    assert_eq!(ClientStatusResponse::decode(&one[5..]).unwrap().config.len(), 1);
    let (three, status, _) = call(STREAM, &question.repeat(3)).await;
    assert_eq!((three, status.as_str()), (one.repeat(3), "0"));
    assert_eq!(call(STREAM, b"").await, (Vec::new(), "0".to_owned(), String::new()));
}

#[tokio::test]
async fn what_is_no_question_is_refused() {
    for (method, bytes, status, message) in [
        ("/some.Service/Method", framed(b""), "12", "there is no method"),
        (FETCH, framed(b"\xff\xff"), "3", ""),
        (FETCH, b"\x01\0\0\0\0".to_vec(), "12", "compressed"),
        (FETCH, b"\0\xff\xff\xff\xff".to_vec(), "8", "bytes"),
        (FETCH, b"\0\0\0\0\x09abc".to_vec(), "13", "within a message"),
        (FETCH, Vec::new(), "13", "within a message"),
        (STREAM, b"\0\0\0\0\x09abc".to_vec(), "13", "within a message"),
    ] {
        let (data, code, text) = call(method, &bytes).await;
        let text = percent_encoding::percent_decode_str(&text).decode_utf8().unwrap().into_owned();
        assert_eq!((data.as_slice(), code.as_str()), (&[][..], status), "{method} {bytes:?}: {text}");
        assert!(text.contains(message), "{text}");
    }
}
