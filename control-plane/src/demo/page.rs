//! The page of a product.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value as Json, json};

use super::PORT;
use super::books::host;
use super::http::{Application, Asked, forwarded, get, json_of, text, typed};

/// How long the page waits for what it shows: as the original does.
const PATIENCE: Duration = Duration::from_secs(3);
/// The cookie of who is logged in. Anybody may say to be anybody, as in the original.
const COOKIE: &str = "session-user";

pub(super) struct Page {
    details: String,
    reviews: String,
    ratings: String,
}

impl Page {
    pub(super) fn new() -> Self {
        Self {
            details: host("DETAILS_HOSTNAME", "details"),
            reviews: host("REVIEWS_HOSTNAME", "reviews"),
            ratings: host("RATINGS_HOSTNAME", "ratings"),
        }
    }

    async fn product(&self, headers: &HeaderMap, user: Option<&str>) -> Response<Full<Bytes>> {
        let (details, reviews) = tokio::join!(
            get(&self.details, PORT, "/details/0", headers, PATIENCE),
            // Tried twice, as in the original.
            async {
                match get(&self.reviews, PORT, "/reviews/0", headers, PATIENCE).await {
                    Err(_) => get(&self.reviews, PORT, "/reviews/0", headers, PATIENCE).await,
                    found => found,
                }
            }
        );
        let mut html = String::from(HEAD);
        let _ = write!(html, "<main><h1>The Comedy of Errors</h1>{}", login(user));
        html.push_str(
            "<p>Wikipedia summary: The Comedy of Errors is one of William Shakespeare's early plays. It is his shortest and \
             one of his most farcical comedies, with a major part of the humour coming from slapstick and mistaken identity, \
             in addition to puns and word play.</p><div class=columns>",
        );
        html.push_str(&section("Book Details", "details", details.map(|found| facts(&found))));
        html.push_str(&section("Book Reviews", "reviews", reviews.map(|found| opinions(&found))));
        html.push_str("</div></main>");
        typed(StatusCode::OK, "text/html; charset=utf-8", html)
    }

    async fn part(&self, host: &str, path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
        match get(host, PORT, path, headers, PATIENCE).await {
            Ok(found) => json_of(StatusCode::OK, &found),
            Err(error) => json_of(StatusCode::INTERNAL_SERVER_ERROR, &json!({"error": format!("{error:#}")})),
        }
    }
}

impl Application for Page {
    async fn answer(&self, asked: Asked) -> Response<Full<Bytes>> {
        let user = user_of(&asked.headers);
        let mut headers = forwarded(&asked.headers);
        if let Some(value) = user.as_deref().and_then(|user| HeaderValue::from_str(user).ok()) {
            headers.insert("end-user", value);
        }
        match (&asked.method, asked.path.split('?').next().unwrap_or_default()) {
            (_, "/productpage") => self.product(&headers, user.as_deref()).await,
            (&Method::POST, "/login") => leave(Some(&form_user(&asked.body))),
            (_, "/logout") => leave(None),
            (_, "/health") => text(StatusCode::OK, "Product page is healthy"),
            (_, "/api/v1/products") => {
                let all = json!([{"id": 0, "title": "The Comedy of Errors", "descriptionHtml": ""}]);
                json_of(StatusCode::OK, &all)
            }
            (_, "/api/v1/products/0") => self.part(&self.details, "/details/0", &headers).await,
            (_, "/api/v1/products/0/reviews") => self.part(&self.reviews, "/reviews/0", &headers).await,
            (_, "/api/v1/products/0/ratings") => self.part(&self.ratings, "/ratings/0", &headers).await,
            (_, "/" | "/index.html") => typed(
                StatusCode::OK,
                "text/html; charset=utf-8",
                format!("{HEAD}<main><h1>BookInfo</h1><a href=/productpage>The page</a></main>"),
            ),
            _ => text(StatusCode::NOT_FOUND, "there is nothing here"),
        }
    }
}

/// Back to the page, as this user from now on.
fn leave(user: Option<&str>) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::FOUND, "");
    let cookie = match user {
        Some(user) => format!(
            "{COOKIE}={}; Path=/; HttpOnly; SameSite=Lax",
            percent_encoding::utf8_percent_encode(user, percent_encoding::NON_ALPHANUMERIC)
        ),
        None => format!("{COOKIE}=; Path=/; Max-Age=0"),
    };
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::from_static("/productpage"));
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        headers.insert(header::SET_COOKIE, cookie);
    }
    response
}

fn form_user(body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body);
    let value = body.split('&').find_map(|pair| pair.strip_prefix("username=")).unwrap_or_default().replace('+', " ");
    percent_encoding::percent_decode_str(&value).decode_utf8_lossy().chars().take(64).collect()
}

/// Who is logged in: by cookie, or as somebody before this says.
fn user_of(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let of_cookie = cookies
        .flat_map(|all| all.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
        .map(|value| percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned());
    let told = || headers.get("end-user").and_then(|value| value.to_str().ok()).map(str::to_owned);
    of_cookie.or_else(told).filter(|user| !user.is_empty())
}

fn login(user: Option<&str>) -> String {
    match user {
        Some(user) => format!("<form class=user action=/logout>{} <button>Sign out</button></form>", escaped(user)),
        None => "<form class=user method=post action=/login><input name=username placeholder=\"User name\" aria-label=\"User name\"> \
                 <button>Sign in</button></form>"
            .to_owned(),
    }
}

fn section(title: &str, id: &str, inner: anyhow::Result<String>) -> String {
    let inner = inner.unwrap_or_else(|error| {
        format!(
            "<p class=error>Sorry, product {id} are currently unavailable for this book.</p><p class=why>{}</p>",
            escaped(&format!("{error:#}"))
        )
    });
    format!("<section id={id}><h2>{title}</h2>{inner}</section>")
}

fn facts(found: &Json) -> String {
    let Some(fields) = found.as_object() else { return String::new() };
    let mut html = String::from("<dl>");
    for (name, value) in fields.iter().filter(|(name, _)| *name != "id") {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _ = write!(html, "<dt>{}</dt><dd>{}</dd>", escaped(name), escaped(&value));
    }
    html + "</dl>"
}

fn opinions(found: &Json) -> String {
    let mut html = String::new();
    let of = |json: &Json| escaped(json.as_str().unwrap_or_default());
    for review in found["reviews"].as_array().into_iter().flatten() {
        let _ = write!(html, "<blockquote><p>{}</p><cite>{}</cite>", of(&review["text"]), of(&review["reviewer"]));
        let rating = &review["rating"];
        if let Some(stars) = rating["stars"].as_u64() {
            let color = if rating["color"] == "red" { "red" } else { "black" };
            let stars = usize::try_from(stars.min(5)).unwrap_or(5);
            let (on, off) = ("★".repeat(stars), "☆".repeat(5 - stars));
            let _ = write!(html, "<p class=\"stars {color}\" data-stars={stars}>{on}{off}</p>");
        } else if let Some(error) = rating["error"].as_str() {
            let _ = write!(html, "<p class=error>{}</p>", escaped(error));
        }
        html.push_str("</blockquote>");
    }
    let _ = write!(
        html,
        "<p class=by>Reviews served by <b id=version>{}</b> {}</p>",
        of(&found["version"]),
        of(&found["podname"])
    );
    html
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
<title>Simple Bookstore App</title><style>\
body{margin:0;font:16px/1.5 system-ui,sans-serif;color:#1d2433;background:#f5f6f8}\
header{background:#1d2433;color:#fff;padding:.8rem 1.5rem;font-weight:600}\
main{max-width:62rem;margin:0 auto;padding:1.5rem}\
h1{margin:.2rem 0}.user{float:right;margin-top:-2.6rem}\
.columns{display:grid;grid-template-columns:1fr 1.6fr;gap:1.5rem}\
section{background:#fff;border:1px solid #dfe3ea;border-radius:8px;padding:1rem 1.3rem}\
h2{margin:.2rem 0 .8rem;font-size:1.1rem}dl{display:grid;grid-template-columns:auto 1fr;gap:.2rem 1rem;margin:0}\
dt{color:#667}dd{margin:0}blockquote{margin:0 0 1rem;padding-left:1rem;border-left:3px solid #dfe3ea}blockquote p{margin:.2rem 0}\
cite{color:#667}.stars{font-size:1.4rem;letter-spacing:.1em}.red{color:#c62828}.black{color:#1d2433}\
.error{color:#b3261e}.why,.by{color:#667;font-size:.85rem}\
@media(max-width:700px){.columns{grid-template-columns:1fr}.user{float:none;margin:.5rem 0}}\
</style><header>BookInfo</header>";
