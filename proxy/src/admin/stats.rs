//! `/stats` and below.

use http::StatusCode;

use super::body::{Params, Reply};
use super::html;
use super::sources::Sources;
use crate::stats::{HistogramView, Query, StatType};

pub(super) fn stats(sources: &Sources, params: &Params) -> Reply {
    let query = match query(params) {
        Ok(query) => query,
        Err(reply) => return reply,
    };
    match params.get("format") {
        None | Some("" | "text") => Reply::text(sources.stats.text(&query)),
        Some("json") => Reply::new(StatusCode::OK, "application/json", sources.stats.json(&query)),
        Some("prometheus") => prometheus(sources, &query),
        Some("html" | "active-html") => html::stats(params, &sources.stats.text(&query)),
        Some(_) => {
            let usage = "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n";
            Reply::error(StatusCode::BAD_REQUEST, usage)
        }
    }
}

pub(super) fn stats_prometheus(sources: &Sources, params: &Params) -> Reply {
    match query(params) {
        Ok(query) => prometheus(sources, &query),
        Err(reply) => reply,
    }
}

fn prometheus(sources: &Sources, query: &Query) -> Reply {
    match sources.stats.prometheus(query) {
        Ok(text) => Reply::text(text),
        Err(message) => Reply::error(StatusCode::BAD_REQUEST, message),
    }
}

fn query(params: &Params) -> Result<Query, Reply> {
    let bad = |text: &str| Reply::error(StatusCode::BAD_REQUEST, text);
    let filter = params.non_empty("filter").map(regex::Regex::new).transpose();
    let filter = filter.map_err(|error| bad(&format!("Invalid re2 regex: {error}")))?;
    let stat_type = match params.non_empty("type") {
        None | Some("All") => StatType::All,
        Some("Counters") => StatType::Counters,
        Some("Gauges") => StatType::Gauges,
        Some("Histograms") => StatType::Histograms,
        Some("TextReadouts") => StatType::TextReadouts,
        Some(_) => return Err(bad("invalid &type= param")),
    };
    let histograms = match params.get("histogram_buckets") {
        None | Some("" | "none") => HistogramView::Default,
        Some("summary") => HistogramView::Summary,
        Some("cumulative") => HistogramView::Cumulative,
        Some("disjoint") => HistogramView::Disjoint,
        Some("detailed") => HistogramView::Detailed,
        Some(_) => return Err(bad("usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary)\n")),
    };
    Ok(Query {
        used_only: params.has("usedonly"),
        filter,
        invert_filter: params.has("invert_filter"),
        stat_type,
        histograms,
        text_readouts: params.has("text_readouts"),
    })
}

/// Envoy counts look-ups in its table of stat names; nothing is looked up here while requests are served.
pub(super) fn recent_lookups(_: &Sources, _: &Params) -> Reply {
    Reply::text("Lookup tracking is not enabled. Use /stats/recentlookups/enable to enable.\n\ntotal: 0\n")
}

pub(super) fn lookup_tracking(_: &Sources, _: &Params) -> Reply {
    Reply::error(
        StatusCode::NOT_IMPLEMENTED,
        "Stat names are not looked up while requests are served: nothing to track\n",
    )
}
