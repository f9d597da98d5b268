//! The Kubernetes API, as far as it is needed: the `CertificateRequest` objects of one namespace.
//!
//! Owns the client, its bounds, and what is said when it is refused. The kubeconfig or the service
//! account is read anew for each client, and a client lives for one certificate: nothing goes stale.

use std::path::Path;
use std::time::Duration;

use http::Response;
use http_body_util::Limited;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::client::{ClientBuilder, DynBody};
use kube::config::{Config, Kubeconfig, KubeconfigError};
use kube::core::request::Request;
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Resource as _};
use serde_json::Value;
use tower::util::MapResponseLayer;

use super::request::{GROUP, KIND, PLURAL, VERSION, excerpt};
use super::{CertManagerError, CertManagerSettings};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What an answer may have at most, in bytes. A list has up to `LIST_MAX` certificates with their chains.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// How many requests are cleaned up at a time.
const LIST_MAX: u32 = 100;

/// The API server as seen from one namespace.
pub(super) struct Api {
    client: Client,
    requests: Request,
    address: String,
    namespace: String,
}

/// Checks what a client is made of, without making one: credentials that a program gives are not
/// asked for.
pub(super) fn check(settings: &CertManagerSettings) -> Result<(), CertManagerError> {
    let config = read(settings)?;
    let is_plain = config.cluster_url.scheme_str() != Some("https");
    if is_plain || config.accept_invalid_certs {
        tracing::warn!(
            "UpstreamAuthority \"cert-manager\": whoever is between this server and Kubernetes can take \
             its credentials: use https and certificate-authority in the kubeconfig"
        );
    }
    Ok(())
}

fn read(settings: &CertManagerSettings) -> Result<Config, CertManagerError> {
    let mut config = match &settings.kube_config_file {
        Some(path) => read_file(path)?,
        None => Config::incluster().map_err(|error| CertManagerError::NoPod(error.to_string()))?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(CALL_TIMEOUT);
    // Who waits asks again by itself, and an object that was made twice is signed twice.
    config.default_retry = false;
    Ok(config)
}

fn read_file(path: &Path) -> Result<Config, CertManagerError> {
    let refuse = |reason: String| CertManagerError::Kubeconfig { path: path.to_owned(), reason };
    let bad = |error: KubeconfigError| refuse(why_unreadable(&error));
    let kubeconfig = Kubeconfig::read_from(path).map_err(bad)?;
    let has_proxy = has_proxy(&kubeconfig);
    let mut config = Config::try_from(kubeconfig).map_err(bad)?;
    if has_proxy {
        return Err(refuse("proxy-url is not supported: name a server without it".to_owned()));
    }
    // What is left is the environment's, which is for the web.
    config.proxy_url = None;
    Ok(config)
}

/// Whether the cluster of the current context is behind a proxy.
fn has_proxy(kubeconfig: &Kubeconfig) -> bool {
    let is_current = |name: &String| Some(name) == kubeconfig.current_context.as_ref();
    let context = kubeconfig.contexts.iter().find(|named| is_current(&named.name));
    let context = context.and_then(|named| named.context.as_ref());
    let of_context = |name: &String| context.is_some_and(|context| context.cluster == *name);
    let cluster = kubeconfig.clusters.iter().find(|named| of_context(&named.name));
    let cluster = cluster.and_then(|named| named.cluster.as_ref());
    cluster.is_some_and(|cluster| cluster.proxy_url.as_ref().is_some_and(|url| !url.is_empty()))
}

/// What is wrong with a kubeconfig, without quoting it: it holds credentials.
fn why_unreadable(error: &KubeconfigError) -> String {
    if let KubeconfigError::Parse(error) = error {
        let at = error.location().map(|at| format!(": line {}, column {}", at.line(), at.column()));
        return format!("no kubeconfig{}", at.unwrap_or_default());
    }
    if let KubeconfigError::ReadConfig(error, _) = error {
        return error.to_string();
    }
    error.to_string()
}

impl Api {
    /// A client; it connects with the first call.
    pub(super) async fn connect(settings: &CertManagerSettings) -> Result<Self, CertManagerError> {
        let settings = settings.clone();
        // Files are read, and a kubeconfig may name a program that gives the credentials.
        let made = tokio::task::spawn_blocking(move || Self::make(&settings)).await;
        made.unwrap_or_else(|error| Err(CertManagerError::Client(error.to_string())))
    }

    fn make(settings: &CertManagerSettings) -> Result<Self, CertManagerError> {
        let config = read(settings)?;
        let address = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let builder = ClientBuilder::try_from(config);
        let builder = builder.map_err(|error| CertManagerError::Client(causes(&error)))?;
        let limit = |answer: Response<Box<DynBody>>| {
            answer.map(|body| Limited::new(body, ANSWER_BYTES_MAX))
        };
        let client = builder.with_layer(&MapResponseLayer::new(limit)).build();
        let kind = GroupVersionKind::gvk(GROUP, VERSION, KIND);
        let resource = ApiResource::from_gvk_with_plural(&kind, PLURAL);
        let namespace = settings.namespace.clone();
        let requests = Request::new(DynamicObject::url_path(&resource, Some(&namespace)));
        Ok(Self { client, requests, address, namespace })
    }

    /// Makes an object; returns it with its name.
    pub(super) async fn create(&self, object: &Value) -> Result<Value, CertManagerError> {
        let body = object.to_string().into_bytes();
        let request = self.requests.create(&PostParams::default(), body);
        self.call("create CertificateRequest", request).await
    }

    /// One object.
    pub(super) async fn get(&self, name: &str) -> Result<Value, CertManagerError> {
        let request = self.requests.get(name, &Default::default());
        self.call("get CertificateRequest", request).await
    }

    /// The objects with a label, `LIST_MAX` at most.
    pub(super) async fn list(&self, selector: &str) -> Result<Vec<Value>, CertManagerError> {
        let wanted = ListParams::default().labels(selector).limit(LIST_MAX);
        let mut list = self.call("list CertificateRequests", self.requests.list(&wanted)).await?;
        match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => Err(self.nonsense("the list has no items")),
        }
    }

    /// Removes an object; one that is gone already is none the worse for it.
    pub(super) async fn delete(&self, name: &str) -> Result<(), CertManagerError> {
        let request = self.requests.delete(name, &DeleteParams::default());
        match self.call("delete CertificateRequest", request).await {
            Ok(_) | Err(CertManagerError::Refused { code: 404, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// An answer that makes no sense.
    pub(super) fn nonsense(&self, reason: &str) -> CertManagerError {
        CertManagerError::Answer { address: self.address.clone(), reason: reason.to_owned() }
    }

    async fn call(
        &self,
        doing: &'static str,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Value, CertManagerError> {
        let failed = |reason: String| CertManagerError::Call {
            doing,
            address: self.address.clone(),
            reason,
        };
        let request = request.map_err(|error| failed(causes(&error)))?;
        match tokio::time::timeout(CALL_TIMEOUT, self.client.request_text(request)).await {
            Err(_elapsed) => Err(failed(format!("no answer within {CALL_TIMEOUT:?}"))),
            Ok(Err(kube::Error::Api(status))) => {
                let reason = excerpt(&status.message);
                let advice = self.advice(status.code, &reason);
                let address = self.address.clone();
                Err(CertManagerError::Refused { doing, address, code: status.code, reason, advice })
            }
            Ok(Err(error)) => Err(failed(causes(&error))),
            Ok(Ok(text)) => serde_json::from_str(&text)
                .map_err(|_no_json| self.nonsense(&format!("it answers {:?}", excerpt(&text)))),
        }
    }

    fn advice(&self, code: u16, reason: &str) -> String {
        let namespace = &self.namespace;
        match code {
            401 => "; the kubeconfig's credentials, or this pod's service account, are not taken"
                .to_owned(),
            // A webhook that refuses says why; permissions would not help.
            403 if !reason.contains("admission webhook") => format!(
                "; grant the verbs create, get, list and delete on {PLURAL}.{GROUP} in namespace \
                 {namespace}"
            ),
            404 => format!(
                "; is cert-manager installed (kubectl get crd {PLURAL}.{GROUP}), and is there a \
                 namespace {namespace}"
            ),
            _ => String::new(),
        }
    }
}

/// What lies below an error of the library, which repeats its causes in its own text.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    excerpt(&text)
}
