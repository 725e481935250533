use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;

use super::http::{Application as _, Asked};
use super::{books, page};

fn asked(method: Method, path: &str, headers: HeaderMap, body: &str) -> Asked {
    Asked { method, path: path.to_owned(), headers, body: body.to_owned().into() }
}

#[tokio::test]
async fn who_logs_in_is_known_by_a_cookie() {
    let page = page::Page::new();
    let answer = page.answer(asked(Method::POST, "/login", HeaderMap::new(), "username=jason&passwd=")).await;
    assert_eq!(answer.status(), StatusCode::FOUND);
    assert!(answer.headers()["set-cookie"].to_str().unwrap().starts_with("session-user=jason;"));
}

#[tokio::test]
async fn the_first_reviews_have_no_stars_and_what_is_not_there_is_not_found() {
    let reviews = books::Reviews::new("v1".to_owned());
    let mut headers = HeaderMap::new();
    headers.insert("end-user", HeaderValue::from_static("jason"));
    let answer = reviews.answer(asked(Method::GET, "/reviews/0", headers, "")).await;
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(json["reviews"].as_array().unwrap().len(), 2);
    assert_eq!(json["reviews"][0]["rating"], serde_json::Value::Null);
    let answer = reviews.answer(asked(Method::GET, "/reviews/../etc", HeaderMap::new(), "")).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
}
