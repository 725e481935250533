//! What a connection manager takes as extensions: original IP detection, early header mutation, request ids.

use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use weft_proto::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3 as early;
use weft_proto::pb::envoy::extensions::http::original_ip_detection::{custom_header::v3 as custom, xff::v3 as xff};
use weft_proto::pb::envoy::extensions::request_id::uuid::v3 as uuid;

use super::ctx::{Ctx, Out, type_name};
use super::{address, headers, value};
use crate::config::{HeaderMutations, OriginalIpDetection, SchemeTransformation};

/// `original_ip_detection_extensions`, which may not be mixed with the fields they stand for.
pub(super) fn original_ip_detection(c: &Ctx<'_>, m: &pb::HttpConnectionManager) -> Out<Vec<OriginalIpDetection>> {
    const FIELD: &str = "original_ip_detection_extensions";
    if !m.original_ip_detection_extensions.is_empty() {
        let here = c.field(FIELD);
        here.ensure(!value::bool_or(&m.use_remote_address, false), || {
            "Original IP detection extensions and use_remote_address may not be mixed".into()
        })?;
        here.ensure(m.xff_num_trusted_hops == 0, || {
            "Original IP detection extensions and xff_num_trusted_hops may not be mixed".into()
        })?;
    }
    c.each(FIELD, &m.original_ip_detection_extensions, |c, ext| {
        let Some(any) = &ext.typed_config else {
            return c.unknown_extension(&ext.name, None);
        };
        let c = c.field("typed_config");
        match &*type_name(any) {
            "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig" => xff(&c, &c.unpack(any)?),
            "envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig" => {
                custom_header(&c, &c.unpack(any)?)
            }
            _ => c.unknown_extension(&ext.name, Some(any)),
        }
    })
}

fn xff(c: &Ctx<'_>, x: &xff::XffConfig) -> Out<OriginalIpDetection> {
    let trusted_cidrs =
        c.opt("xff_trusted_cidrs", &x.xff_trusted_cidrs, |c, t| c.each("cidrs", &t.cidrs, address::cidr))?;
    if trusted_cidrs.is_some() && x.xff_num_trusted_hops > 0 {
        return c.refuse("Cannot set both xff_num_trusted_hops and xff_trusted_cidrs");
    }
    Ok(OriginalIpDetection::Xff {
        num_trusted_hops: x.xff_num_trusted_hops,
        trusted_cidrs: trusted_cidrs.unwrap_or_default(),
        skip_xff_append: value::bool_or(&x.skip_xff_append, true),
    })
}

fn custom_header(c: &Ctx<'_>, h: &custom::CustomHeaderConfig) -> Out<OriginalIpDetection> {
    /// What Envoy rejects with where the code given is not an error.
    const FORBIDDEN: u16 = 403;
    let reject_with_status = h.reject_with_status.as_ref().map(|s| match u16::try_from(s.code) {
        Ok(code @ 400..=599) => code,
        _ => FORBIDDEN,
    });
    Ok(OriginalIpDetection::CustomHeader {
        name: headers::name(c, "header_name", &h.header_name)?,
        allow_extension_to_set_address_as_trusted: h.allow_extension_to_set_address_as_trusted,
        reject_with_status,
    })
}

/// All mutations of all `header_mutation` extensions, in order.
pub(super) fn early_header_mutations(c: &Ctx<'_>, m: &pb::HttpConnectionManager) -> Out<HeaderMutations> {
    let all = c.each("early_header_mutation_extensions", &m.early_header_mutation_extensions, |c, ext| {
        const KNOWN: &str = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation";
        match &ext.typed_config {
            Some(any) if type_name(any) == KNOWN => {
                let c = c.field("typed_config");
                let config: early::HeaderMutation = c.unpack(any)?;
                headers::mutations(&c, "mutations", &config.mutations)
            }
            any => c.unknown_extension(&ext.name, any.as_ref()),
        }
    })?;
    Ok(HeaderMutations(all.into_iter().flat_map(|m| m.0).collect()))
}

/// `pack_trace_reason` of the UUID request id extension.
pub(super) fn request_id(c: &Ctx<'_>, r: &pb::RequestIdExtension) -> Out<bool> {
    match &r.typed_config {
        Some(any) if type_name(any) == "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig" => {
            let config: uuid::UuidRequestIdConfig = c.field("typed_config").unpack(any)?;
            Ok(value::bool_or(&config.pack_trace_reason, true))
        }
        any => c.unknown_extension("request_id_extension", any.as_ref()),
    }
}

/// The scheme that a request gets.
pub(super) fn scheme(c: &Ctx<'_>, s: &core::SchemeHeaderTransformation) -> Out<SchemeTransformation> {
    use core::scheme_header_transformation::Transformation::SchemeToOverwrite;
    let overwrite = match &s.transformation {
        None => None,
        Some(SchemeToOverwrite(scheme)) => {
            c.field("scheme_to_overwrite")
                .ensure(matches!(scheme.as_str(), "http" | "https"), || "value must be in list [http, https]".into())?;
            Some(scheme.clone())
        }
    };
    Ok(SchemeTransformation { overwrite, match_upstream: s.match_upstream })
}
