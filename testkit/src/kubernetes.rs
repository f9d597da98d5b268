//! A Kubernetes API with cert-manager in it, as far as `CertificateRequest` objects go: TLS, a token,
//! and an issuer that is an intermediate CA.
//!
//! Lives in the process of the test, on loopback, for as long as it is held.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use steeple_spiffe_core::svid::x509::{
    DownstreamSubject, DownstreamTemplate, IssuerIdentity, self_signed_ca, sign_downstream_ca,
};
use steeple_spiffe_core::time::{Clock as _, SystemClock};
use steeple_spiffe_core::{
    CertificateRequest, KeyType, LocalSigner, Signer as _, TrustDomain, pem,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The namespace that there is.
pub const NAMESPACE: &str = "spire";

/// What the kubeconfig's user proves itself with.
pub const TOKEN: &str = "the-token-of-the-service-account";

/// Where the objects are.
const PATH: &str = "/apis/cert-manager.io/v1/namespaces/spire/certificaterequests";

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// What cert-manager and the API server do from now on.
#[derive(Clone, Debug)]
pub enum Mood {
    /// A request is approved when it is made, and signed at its n-th look.
    Signs {
        /// Counted from 1.
        at_look: usize,
    },
    /// A request is signed at once, and the status then changed.
    Changes(fn(&mut Value)),
    /// A request gets this status when it is made, and nothing happens to it.
    Says(Value),
    /// Calls of one method are answered so, the others as if requests were signed at once.
    Answers {
        /// `POST`.
        method: Method,
        /// The status of HTTP.
        code: u16,
        /// A `Status` object, or a text.
        body: Value,
    },
}

/// The API server.
#[derive(Debug)]
pub struct Kubernetes {
    shared: Arc<Shared>,
    kubeconfig: PathBuf,
    serving: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    issuer: IssuerIdentity,
    signer: LocalSigner,
    intermediate: Vec<u8>,
    root: Vec<u8>,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    objects: BTreeMap<String, Object>,
    calls: Vec<String>,
    posted: Vec<Value>,
    made: usize,
}

#[derive(Debug)]
struct Object {
    value: Value,
    looks: usize,
}

impl Kubernetes {
    /// Starts one whose issuer signs at once; its kubeconfig lies in the folder.
    pub async fn start(folder: &Path) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
        let address = listener.local_addr().context("listen")?;
        let (acceptor, ca) = tls()?;
        let kubeconfig = folder.join("kubeconfig");
        fs::write(&kubeconfig, kubeconfig_text(address, &ca)).context("write kubeconfig")?;
        let shared = Arc::new(Shared::new()?);
        let serving = tokio::spawn(serve(listener, acceptor, Arc::clone(&shared)));
        Ok(Self { shared, kubeconfig, serving })
    }

    /// The file for `kube_config_file`.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The root of the issuer, in DER.
    pub fn root(&self) -> &[u8] {
        &self.shared.root
    }

    /// Who signs, in DER.
    pub fn intermediate(&self) -> &[u8] {
        &self.shared.intermediate
    }

    /// Does something else from now on.
    pub fn set(&self, mood: Mood) {
        self.shared.lock().mood = mood;
    }

    /// The names of the objects that there are.
    pub fn names(&self) -> Vec<String> {
        self.shared.lock().objects.keys().cloned().collect()
    }

    /// Every object as it was sent, the first one first.
    pub fn posted(&self) -> Vec<Value> {
        self.shared.lock().posted.clone()
    }

    /// What was called since the last look: methods and paths.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().calls)
    }

    /// Puts an object there that somebody made so long ago.
    pub fn put(&self, name: &str, trust_domain: &str, age: Duration, status: &Value) -> Result<()> {
        let value = json!({
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "creationTimestamp": time_before_now(age)?,
                "labels": { "cert-manager.spiffe.io/trust-domain": trust_domain },
            },
            "spec": {},
            "status": status,
        });
        self.shared.lock().objects.insert(name.to_owned(), Object { value, looks: 0 });
        Ok(())
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A certificate for this address, and the CA that signed it in PEM.
fn tls() -> Result<(TlsAcceptor, String)> {
    let key = rcgen::KeyPair::generate().context("generate a key")?;
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).context("a CA")?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).context("sign a CA")?.pem();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().context("generate a key")?;
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).context("a server")?;
    let certificate = params.signed_by(&key, &issuer).context("sign a server")?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS")?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .context("TLS")?;
    Ok((TlsAcceptor::from(Arc::new(config)), ca))
}

fn kubeconfig_text(address: SocketAddr, ca: &str) -> String {
    let ca = STANDARD.encode(ca);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\ncontexts:\n- name: test\n  context:\n    \
         cluster: test\n    user: test\nclusters:\n- name: test\n  cluster:\n    server: \
         https://{address}\n    certificate-authority-data: {ca}\nusers:\n- name: test\n  user:\n    \
         token: {TOKEN}\n"
    )
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    // Those of clients that are open end with the server.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            // A client that does not trust us has its own error to tell.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.answer(request).await) }
            });
            let connection = auto::Builder::new(TokioExecutor::new());
            connection.serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

/// An answer: the status of HTTP, and an object or a text.
type Answer = (u16, Value);

impl Shared {
    fn new() -> Result<Self> {
        let pki = TrustDomain::parse("pki.example").context("a trust domain")?;
        let now = SystemClock.now();
        let (from, to) = (now.minus(YEAR), now.plus(YEAR));
        let (root_key, _) = LocalSigner::generate(KeyType::EcP384).context("generate a key")?;
        let root = self_signed_ca(&pki, None, &root_key, [3; 16], from, to).context("a root")?;
        let (signer, _) = LocalSigner::generate(KeyType::EcP256).context("generate a key")?;
        let template = DownstreamTemplate {
            trust_domain: &pki,
            subject: DownstreamSubject::Depth(1),
            public_key_spki: signer.public_key_spki(),
            serial: [4; 16],
            not_before: from,
            not_after: to,
        };
        let above = IssuerIdentity::from_certificate(&root).context("a root")?;
        let intermediate = sign_downstream_ca(&above, &root_key, &template);
        let intermediate = intermediate.context("an intermediate")?;
        let issuer = IssuerIdentity::from_certificate(&intermediate).context("an intermediate")?;
        let state = State {
            mood: Mood::Signs { at_look: 1 },
            objects: BTreeMap::new(),
            calls: Vec::new(),
            posted: Vec::new(),
            made: 0,
        };
        Ok(Self { state: Mutex::new(state), issuer, signer, intermediate, root })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let token = head.headers.get("authorization").and_then(|value| value.to_str().ok());
        let known = token == Some(&format!("Bearer {TOKEN}"));
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let (code, value) = if known {
            self.act(&head.method, &head.uri, &body)
                .unwrap_or_else(|error| status(500, "InternalError", &format!("{error:#}")))
        } else {
            status(401, "Unauthorized", "Unauthorized")
        };
        let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = StatusCode::from_u16(code).unwrap_or_default();
        response
    }

    fn act(&self, method: &Method, uri: &http::Uri, body: &[u8]) -> Result<Answer> {
        let mut state = self.lock();
        state.calls.push(format!("{method} {uri}"));
        match &state.mood {
            Mood::Answers { method: refused, code, body } if refused == method => {
                return Ok((*code, body.clone()));
            }
            Mood::Answers { .. } | Mood::Signs { .. } | Mood::Changes(_) | Mood::Says(_) => {}
        }
        let name = uri.path().strip_prefix(PATH).map(|rest| rest.trim_start_matches('/'));
        match (method.as_str(), name) {
            ("POST", Some("")) => self.create(&mut state, body),
            ("GET", Some("")) => Ok(list(&state, uri.query().unwrap_or_default())),
            ("GET", Some(name)) => self.look(&mut state, name),
            ("DELETE", Some(name)) => Ok(match state.objects.remove(name) {
                Some(_) => (200, json!({ "kind": "Status", "status": "Success" })),
                None => not_found(name),
            }),
            _ => Ok((404, json!("404 page not found\n"))),
        }
    }

    fn create(&self, state: &mut State, body: &[u8]) -> Result<Answer> {
        let mut value: Value = serde_json::from_slice(body).context("no JSON")?;
        state.posted.push(value.clone());
        state.made += 1;
        let prefix = value.pointer("/metadata/generateName").and_then(Value::as_str);
        let name = format!("{}{:05}", prefix.unwrap_or_default(), state.made);
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
        let metadata = metadata.context("no metadata")?;
        metadata.insert("name".to_owned(), json!(name));
        metadata.insert("creationTimestamp".to_owned(), json!(time_before_now(Duration::ZERO)?));
        let approved = json!({ "conditions": [
            { "type": "Approved", "status": "True", "reason": "cert-manager.io" },
            { "type": "Ready", "status": "False", "reason": "Pending", "message": "not yet" },
        ]});
        let status = match &state.mood {
            Mood::Says(status) => status.clone(),
            Mood::Changes(_) | Mood::Signs { .. } | Mood::Answers { .. } => approved,
        };
        set_status(&mut value, status);
        state.objects.insert(name, Object { value: value.clone(), looks: 0 });
        Ok((201, value))
    }

    fn look(&self, state: &mut State, name: &str) -> Result<Answer> {
        let State { mood, objects, .. } = state;
        let Some(object) = objects.get_mut(name) else { return Ok(not_found(name)) };
        object.looks += 1;
        let change: fn(&mut Value) = match mood {
            Mood::Says(_) => return Ok((200, object.value.clone())),
            Mood::Signs { at_look } if object.looks < *at_look => {
                return Ok((200, object.value.clone()));
            }
            Mood::Signs { .. } | Mood::Answers { .. } => |_| {},
            Mood::Changes(change) => *change,
        };
        let mut status = self.sign(&object.value)?;
        change(&mut status);
        set_status(&mut object.value, status);
        Ok((200, object.value.clone()))
    }

    /// The status of a request that is signed.
    fn sign(&self, object: &Value) -> Result<Value> {
        let field = |name: &str| object.pointer(name).and_then(Value::as_str).unwrap_or_default();
        let request = STANDARD.decode(field("/spec/request")).context("spec.request")?;
        let (_, request) = x509_parser::pem::parse_x509_pem(&request).context("spec.request")?;
        ensure!(request.label == "CERTIFICATE REQUEST", "spec.request is a {}", request.label);
        let request = CertificateRequest::parse(&request.contents).context("spec.request")?;
        let example = TrustDomain::parse("example.org").context("a trust domain")?;
        let now = SystemClock.now();
        let template = DownstreamTemplate {
            trust_domain: &example,
            subject: DownstreamSubject::Given(&request.subject_der),
            public_key_spki: &request.public_key_spki,
            serial: [5; 16],
            not_before: now.minus(Duration::from_secs(10)),
            not_after: now.plus(duration(field("/spec/duration"))?),
        };
        let signed = sign_downstream_ca(&self.issuer, &self.signer, &template).context("sign")?;
        let pem_of = |ders: &[Vec<u8>]| STANDARD.encode(pem::encode_certificates(ders));
        Ok(json!({
            "conditions": [
                { "type": "Approved", "status": "True", "reason": "cert-manager.io" },
                { "type": "Ready", "status": "True", "reason": "Issued" },
            ],
            "certificate": pem_of(&[signed, self.intermediate.clone()]),
            "ca": pem_of(std::slice::from_ref(&self.root)),
        }))
    }
}

fn set_status(object: &mut Value, status: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert("status".to_owned(), status);
    }
}

fn list(state: &State, query: &str) -> Answer {
    let query = query.replace("%2F", "/").replace("%3D", "=");
    let selector = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector="));
    let wanted = selector.and_then(|selector| selector.split_once('='));
    let fits = |object: &&Object| {
        let labels = object.value.pointer("/metadata/labels");
        wanted.is_none_or(|(key, value)| {
            labels.and_then(|labels| labels.get(key)).and_then(Value::as_str) == Some(value)
        })
    };
    let items: Vec<_> = state.objects.values().filter(fits).map(|one| &one.value).collect();
    (200, json!({ "kind": "CertificateRequestList", "metadata": {}, "items": items }))
}

/// A `Status` object as the API server gives it for what is refused.
pub fn status(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let body = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    });
    (code, body)
}

fn not_found(name: &str) -> Answer {
    let message = format!("certificaterequests.cert-manager.io {name:?} not found");
    status(404, "NotFound", &message)
}

fn time_before_now(age: Duration) -> Result<String> {
    let then = SystemClock.now().minus(age);
    let then = OffsetDateTime::from_unix_timestamp(then.unix_s()).context("a time")?;
    then.format(&Rfc3339).context("a time")
}

/// A duration as Go writes it, in hours, minutes and seconds.
fn duration(text: &str) -> Result<Duration> {
    let mut whole = 0;
    let mut rest = text;
    for (unit, seconds) in [('h', 3600), ('m', 60), ('s', 1)] {
        if let Some((number, after)) = rest.split_once(unit) {
            whole += number.parse::<u64>().context("spec.duration")? * seconds;
            rest = after;
        }
    }
    ensure!(rest.is_empty() && !text.is_empty(), "spec.duration {text:?}");
    Ok(Duration::from_secs(whole))
}
