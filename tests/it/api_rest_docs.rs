//! The documents that describe the REST API: the OpenAPI document and the Swagger UI that shows it.

use std::collections::BTreeSet;

use crate::support::{http::Http, json::all, node::Shared};
use serde_json::Value;

static NODE: Shared = Shared::new();

/// Every method and path of the contract's two REST tables.
const OPERATIONS: &[(&str, &str)] = &[
    ("get", "/nomad/storage/get/health"),
    ("get", "/nomad/storage/get/{id}"),
    ("post", "/nomad/storage/put"),
    ("put", "/nomad/storage/update"),
    ("post", "/nomad/storage/update"),
    ("delete", "/nomad/storage/delete/{id}"),
    ("get", "/nomad/storage/get/peer-ledger"),
    ("get", "/nomad/storage/get/object-ledger"),
    ("post", "/nomad/group-storage/fast-put"),
    ("post", "/nomad/group-storage/safe-put"),
    ("get", "/nomad/group-storage/fast-get/{id}"),
    ("get", "/nomad/group-storage/parallel-get/{id}"),
    ("get", "/nomad/group-storage/safe-get/{id}"),
    ("post", "/nomad/overlay-storage/put"),
    ("get", "/nomad/overlay-storage/get/{id}"),
    ("post", "/nomad/config/storage"),
    ("post", "/nomad/config/retrieval"),
    ("post", "/nomad/config/groups/migration"),
    ("post", "/nomad/config/groups/replication-factor"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("put", "/nomad/v1/objects/{id}"),
    ("get", "/nomad/v1/objects/{id}"),
    ("head", "/nomad/v1/objects/{id}"),
    ("delete", "/nomad/v1/objects/{id}"),
    ("get", "/nomad/v1/objects"),
    ("get", "/nomad/v1/status"),
    ("get", "/nomad/v1/groups"),
    ("get", "/nomad/v1/groups/{name}"),
];

const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

async fn document() -> Value {
    let answer = NODE.get().http().get("/nomad/openapi.json").await.page(200);
    assert_eq!(answer.header("content-type"), "application/json");
    answer.json()
}

/// Every operation of the document: method, path, description.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let items = paths.iter().flat_map(|(path, item)| {
        let item = item.as_object().unwrap();
        item.iter().map(move |(method, operation)| (method.as_str(), path.as_str(), operation))
    });
    items.filter(|(method, ..)| METHODS.contains(method)).collect()
}

#[tokio::test]
async fn the_document_lists_every_path_of_the_contract() {
    let document = document().await;
    let found: BTreeSet<_> =
        operations(&document).into_iter().map(|(method, path, _)| (method, path)).collect();
    let missing: Vec<_> =
        OPERATIONS.iter().filter(|operation| !found.contains(operation)).collect();
    assert!(missing.is_empty(), "not described: {missing:?}");
}

#[tokio::test]
async fn the_document_is_sound_openapi_3_1() {
    let document = document().await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."), "{}", document["openapi"]);
    assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
    let mut names = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let place = format!("{method} {path}");
        if let Some(name) = operation["operationId"].as_str() {
            assert!(names.insert(name), "{place}: operationId {name} is not unique");
        }
        let responses = operation["responses"].as_object().unwrap_or_else(|| panic!("{place}"));
        assert!(!responses.is_empty(), "{place} has no responses");
        for (status, response) in responses {
            let described = response["description"].is_string() || response["$ref"].is_string();
            assert!(described, "{place} {status}: {response}");
            let valid = status == "default" || status.parse().is_ok_and(|n: u16| n / 100 <= 5);
            assert!(valid || status.ends_with("XX"), "{place}: status {status}");
        }
        let declared: BTreeSet<_> = parameters(&document, path, operation);
        let in_path = path.split('{').skip(1).map(|part| part.split('}').next().unwrap());
        let in_path: BTreeSet<_> = in_path.map(str::to_owned).collect();
        assert_eq!(declared, in_path, "{place}: path parameters");
    }
    for reference in all(&document, "$ref") {
        let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} points nowhere");
    }
}

/// The names of an operation's path parameters, its own and its path's.
fn parameters(document: &Value, path: &str, operation: &Value) -> BTreeSet<String> {
    let shared = &document["paths"][path]["parameters"];
    let lists = [shared, &operation["parameters"]];
    let all = lists.into_iter().filter_map(Value::as_array).flatten();
    let in_path = all.filter(|parameter| parameter["in"] == "path").inspect(|parameter| {
        assert_eq!(parameter["required"], true, "{parameter}");
    });
    in_path.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
}

/// What a page loads: the values of its `src` and `href` attributes.
fn assets(page: &str) -> Vec<String> {
    let marks = ["src=\"", "href=\""];
    let found = marks.iter().flat_map(|mark| page.split(mark).skip(1));
    let links = found.filter_map(|rest| rest.split('"').next()).map(str::to_owned);
    links.filter(|link| !link.starts_with("data:") && !link.starts_with('#')).collect()
}

async fn loads(http: &Http, base: &str, page: &str) {
    let answer = http.get(&format!("{base}{page}")).await.page(200);
    assert!(answer.header("content-type").starts_with("text/html"), "{answer:?}");
    let links = assets(&answer.text());
    let scripts = links.iter().filter(|link| link.ends_with(".js")).count();
    assert!(scripts >= 2 && links.iter().any(|link| link.ends_with(".css")), "{links:?}");
    let mut scripts_text = String::new();
    for link in links {
        assert!(!link.contains("//"), "{link} is loaded from elsewhere");
        let path = match link.strip_prefix('/') {
            Some(_) => link.clone(),
            None => format!("{base}{}", link.trim_start_matches("./")),
        };
        let asset = http.get(&path).await.page(200);
        assert!(!asset.body.is_empty(), "{path} is empty");
        let kind = asset.header("content-type").to_owned();
        if link.ends_with(".js") {
            assert!(kind.contains("javascript"), "{path} is {kind}");
            scripts_text.push_str(&asset.text());
        } else if link.ends_with(".css") {
            assert!(kind.contains("css"), "{path} is {kind}");
        }
    }
    scripts_text.push_str(&answer.text());
    assert!(scripts_text.contains("/nomad/openapi.json"), "the page does not name our document");
}

#[tokio::test]
async fn swagger_ui_loads_with_all_its_assets() {
    let http = NODE.get().http();
    loads(&http, "/swagger/", "index.html").await;
    loads(&http, "/nomad/swagger-ui/", "").await;
}
