//! The OpenAPI document, generated from the handlers, and the Swagger UI that shows it.

use std::sync::{Arc, LazyLock};

use http::{HeaderValue, StatusCode, header};
use serde_json::Value;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        OpenApi as Document, Ref, RefOr, content::ContentBuilder, response::ResponseBuilder,
    },
};
use utoipa_swagger_ui::Config;
use warp::reply::Response;

use super::{
    about, actors,
    ask::{RestRequest, RestResult},
    json::shorten,
    leave, listing, objects,
    problem::{self, Problem},
    row::RouteRow,
    settings, storage, trace,
};
use crate::error::{ApiError, ErrorCode};

pub static OPENAPI: RouteRow = RouteRow::get(&["GET /nomad/openapi.json"]);
pub static SWAGGER: RouteRow = RouteRow::get(&["GET /swagger/{file}"]);
pub static SWAGGER_UI: RouteRow = RouteRow::get(&["GET /nomad/swagger-ui/{file}"]);
pub static SWAGGER_BARE: RouteRow = RouteRow::get(&["GET /swagger"]);
pub static SWAGGER_UI_BARE: RouteRow = RouteRow::get(&["GET /nomad/swagger-ui"]);
pub static ROOT: RouteRow = RouteRow::get(&["GET /"]);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "nomad",
        description = "The objects of a virtual world, kept on the machines that take part in it.\n\n\
            Every answer names its request in `Nomad-Request-Id` and says in `Nomad-Durability` how durable what it \
            tells is. Every error is a problem document (RFC 9457)."
    ),
    paths(
        objects::put, objects::get, objects::head, objects::delete, listing::objects,
        storage::put, storage::get, storage::update, storage::update_by_post, storage::delete,
        about::storage_health, listing::peer_ledger, listing::object_ledger,
        storage::fast_put, storage::safe_put, storage::fast_get, storage::parallel_get, storage::safe_get,
        storage::overlay_put, storage::overlay_get,
        settings::storage, settings::retrieval, settings::migration, settings::replication_factor,
        about::status, about::groups, about::group, leave::leave, about::healthz, about::readyz, about::metrics,
        actors::actors, actors::kill, trace::find, trace::start, trace::stop, trace::capture,
        document,
    ),
    components(schemas(Problem)),
    modifiers(&OtherProblems),
    tags(
        (name = "objects", description = "Objects as raw bytes under their own URLs"),
        (name = "storage", description = "Objects as JSON, in the group's storage"),
        (name = "group-storage", description = "The same, with the mode in the path"),
        (name = "overlay-storage", description = "Objects as JSON, in the overlay tier"),
        (name = "config", description = "Settings that can be changed while the node runs"),
        (name = "node", description = "What the node tells of itself"),
        (name = "debug", description = "Actors and the steps of requests"),
    )
)]
struct Api;

/// Adds to every operation what any of them may answer.
struct OtherProblems;

impl Modify for OtherProblems {
    fn modify(&self, document: &mut Document) {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let text = "Any other problem: 408, 429 or 503 with `Retry-After`, 504 where the outcome is unknown, 500 for a \
                    defect of the node";
        let response =
            ResponseBuilder::new().description(text).content("application/problem+json", content);
        let response = RefOr::T(response.build());
        for item in document.paths.paths.values_mut() {
            let operations =
                [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.head];
            for operation in operations.into_iter().flatten() {
                operation.responses.responses.insert("default".into(), response.clone());
            }
        }
    }
}

/// Returns the document; `page_size` is the node's `limits.pageSize`.
pub fn json(page_size: usize) -> Value {
    let mut document = serde_json::to_value(Api::openapi()).unwrap_or_default();
    let items = document.get_mut("paths").and_then(Value::as_object_mut);
    for (path, item) in items.into_iter().flatten() {
        let operations = item.as_object_mut().into_iter().flat_map(|item| item.values_mut());
        let parameters = operations
            .filter_map(|operation| operation.get_mut("parameters")?.as_array_mut())
            .flatten();
        for parameter in parameters {
            let is_limit = parameter.get("name").is_some_and(|name| name == "limit");
            let schema = parameter.get_mut("schema").and_then(Value::as_object_mut);
            let Some(schema) = schema else { continue };
            // A parameter that may be absent is still never null.
            if let Some(kind) = schema.get("type").and_then(|kind| kind.get(0)).cloned() {
                schema.insert("type".into(), kind);
            }
            if is_limit && path == listing::OBJECTS.path() {
                schema.insert("maximum".into(), page_size.into());
            }
        }
    }
    document
}

/// Shows the OpenAPI document.
#[utoipa::path(
    get, path = "/nomad/openapi.json", operation_id = "openapi", tag = "node",
    responses((status = 200, description = "The document", body = Object))
)]
pub async fn document(ask: RestRequest) -> Response {
    let document = json(ask.backend().config.limits.page_size);
    ask.show(Ok(problem::ok(&document)))
}

/// Shows a file of the Swagger UI.
pub async fn swagger(ask: RestRequest) -> Response {
    let answer = file(&ask);
    ask.show(answer)
}

fn file(ask: &RestRequest) -> RestResult {
    static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
        Arc::new(Config::from("/nomad/openapi.json").validator_url("none").deep_linking(true))
    });
    let name = ask.name()?;
    let found = utoipa_swagger_ui::serve(&name, Arc::clone(&CONFIG));
    let file = found.map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?;
    let file = file.ok_or_else(|| {
        let detail = format!("the Swagger UI has no file {:?}", shorten(&name));
        ApiError::new(ErrorCode::NotFound, detail)
    })?;
    let mut response = Response::new(file.bytes.into_owned().into());
    if let Ok(kind) = HeaderValue::try_from(file.content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    Ok(response)
}

/// Sends a browser to the Swagger UI.
pub async fn to_swagger(ask: RestRequest) -> Response {
    let mut response = problem::empty(StatusCode::TEMPORARY_REDIRECT);
    let page = HeaderValue::from_static("/swagger/index.html");
    response.headers_mut().insert(header::LOCATION, page);
    ask.show(Ok(response))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rest::tests::DOCUMENTED;

    #[test]
    fn the_document_has_the_calls_of_the_route_table_and_no_others() {
        let document = json(1000);
        let paths = document["paths"].as_object().unwrap();
        let described = paths.iter().flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        });
        let described: BTreeSet<_> = described.collect();
        let calls = DOCUMENTED.iter().flat_map(|row| row.calls).map(|call| (*call).to_owned());
        assert_eq!(described, calls.collect());
        assert_eq!(document["openapi"], "3.1.0");
    }

    #[test]
    fn every_operation_says_what_may_go_wrong_and_has_its_own_name() {
        let document = json(7);
        let mut names = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name.to_owned()), "{name} names two operations");
                let other =
                    &operation["responses"]["default"]["content"]["application/problem+json"];
                assert_eq!(
                    other["schema"]["$ref"], "#/components/schemas/Problem",
                    "{method} {path}"
                );
            }
        }
        let parameters = &document["paths"]["/nomad/v1/objects"]["get"]["parameters"];
        assert_eq!(parameters[1]["schema"]["maximum"], 7, "{parameters}");
        assert_eq!(parameters[1]["schema"]["type"], "integer", "{parameters}");
    }
}
