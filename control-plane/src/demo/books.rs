//! Details, reviews and ratings.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value as Json, json};

use super::http::{Application, Asked, forwarded, get, json_of, text};
use super::{PORT, database};

/// How long reviews wait for ratings: as the original does.
const RATINGS: Duration = Duration::from_millis(2500);

/// Where a service is: as the original finds it.
pub(super) fn host(variable: &str, default: &str) -> String {
    let domain = std::env::var("SERVICES_DOMAIN").map(|domain| format!(".{domain}")).unwrap_or_default();
    std::env::var(variable).unwrap_or_else(|_| format!("{default}{domain}"))
}

/// The last part of a path below `prefix`: the product.
fn product<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let rest = path.split('?').next()?.strip_prefix(prefix)?;
    (!rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit())).then_some(rest)
}

fn simple(path: &str) -> Response<Full<Bytes>> {
    match path {
        "/health" => json_of(StatusCode::OK, &json!({"status": "healthy"})),
        _ => text(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

pub(super) struct Details {
    pub(super) version: String,
}

impl Application for Details {
    async fn answer(&self, asked: Asked) -> Response<Full<Bytes>> {
        let Some(id) = product(&asked.path, "/details/") else { return simple(&asked.path) };
        if self.version == "v2" {
            // As the original: facts come from outside of the mesh.
            let isbn = "/books/v1/volumes?q=isbn:0486424618";
            let outside = get("www.googleapis.com", 80, isbn, &forwarded(&asked.headers), RATINGS).await;
            return match outside {
                Ok(found) => {
                    json_of(StatusCode::OK, &json!({"id": id, "source": "www.googleapis.com", "found": found}))
                }
                Err(error) => json_of(StatusCode::INTERNAL_SERVER_ERROR, &json!({"error": format!("{error:#}")})),
            };
        }
        let json = json!({
            "id": id.parse::<u64>().unwrap_or_default(),
            "author": "William Shakespeare",
            "year": 1595,
            "type": "paperback",
            "pages": 200,
            "publisher": "PublisherA",
            "language": "English",
            "ISBN-10": "1234567890",
            "ISBN-13": "123-1234567890",
        });
        json_of(StatusCode::OK, &json)
    }
}

pub(super) struct Reviews {
    version: String,
    ratings: String,
}

impl Reviews {
    pub(super) fn new(version: String) -> Self {
        Self { version, ratings: host("RATINGS_HOSTNAME", "ratings") }
    }

    /// The colour of stars; none: this version has no stars.
    fn color(&self) -> Option<&'static str> {
        match self.version.as_str() {
            "v1" => None,
            "v3" => Some("red"),
            _ => Some("black"),
        }
    }

    async fn stars(&self, asked: &Asked, id: &str, color: &str) -> [Json; 2] {
        let found = get(&self.ratings, PORT, &format!("/ratings/{id}"), &forwarded(&asked.headers), RATINGS).await;
        let of = |name: &str| match &found {
            Ok(found) => json!({"stars": found["ratings"][name], "color": color}),
            Err(error) => json!({"error": format!("Ratings service is currently unavailable ({error:#})")}),
        };
        [of("Reviewer1"), of("Reviewer2")]
    }
}

impl Application for Reviews {
    async fn answer(&self, asked: Asked) -> Response<Full<Bytes>> {
        let Some(id) = product(&asked.path, "/reviews/") else { return simple(&asked.path) };
        let texts = [
            "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!",
            "Absolutely fun and entertaining. The play lacks thematic depth when compared to other plays by Shakespeare.",
        ];
        let mut reviews: Vec<Json> =
            (1..).zip(texts).map(|(n, text)| json!({"reviewer": format!("Reviewer{n}"), "text": text})).collect();
        if let Some(color) = self.color() {
            for (review, rating) in reviews.iter_mut().zip(self.stars(&asked, id, color).await) {
                review["rating"] = rating;
            }
        }
        let pod = std::env::var("HOSTNAME").unwrap_or_default();
        let json =
            json!({"id": id, "podname": pod, "version": self.version, "clustername": "weft", "reviews": reviews});
        json_of(StatusCode::OK, &json)
    }
}

pub(super) struct Ratings {
    version: String,
}

impl Ratings {
    pub(super) fn new(version: String) -> Self {
        Self { version }
    }
}

impl Application for Ratings {
    async fn answer(&self, asked: Asked) -> Response<Full<Bytes>> {
        let Some(id) = product(&asked.path, "/ratings/") else { return simple(&asked.path) };
        let stars = if self.version == "v1" { Ok([5, 4]) } else { database::stars().await };
        match stars {
            Ok([first, second]) => {
                let json = json!({"id": id.parse::<u64>().unwrap_or_default(), "ratings": {"Reviewer1": first, "Reviewer2": second}});
                json_of(StatusCode::OK, &json)
            }
            Err(error) => {
                let said = json!({"error": format!("could not connect to ratings database: {error:#}")});
                json_of(StatusCode::INTERNAL_SERVER_ERROR, &said)
            }
        }
    }
}
