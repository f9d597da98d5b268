//! A server of certificates and a store of records, in memory, that write down what is asked of
//! them in one list.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
};
use rustls_pki_types::CertificateSigningRequestDer;
use steeple_spiffe_core::{Clock, Secret, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use super::client::{Acme, AcmeAccount, AcmeError, Progress, Window};
use super::settings::AcmeSettings;
use super::state::{AcmeState, Digest, Held, Record, Records, StateError};

pub(super) const DOMAIN: &str = "bundle.example.test";

pub(super) fn settings() -> AcmeSettings {
    AcmeSettings {
        directory_url: "https://acme.test/dir".into(),
        domain_name: DOMAIN.into(),
        email: None,
        tos_accepted: true,
    }
}

/// What was done, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(super) fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    pub(super) fn count(&self, what: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|one| *one == what).count()
    }
}

/// Goes with tokio's time, which tests stop.
#[derive(Debug)]
pub(super) struct PausedClock(Instant);

pub(super) const START: Timestamp = Timestamp::from_unix_s(1_800_000_000);

impl PausedClock {
    pub(super) fn start() -> Arc<Self> {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        START.plus(self.0.elapsed())
    }

    fn boot_time(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Records in memory.
#[derive(Debug)]
pub(super) struct FakeState {
    pub(super) records: watch::Sender<Records>,
    pub(super) log: Log,
    pub(super) is_broken: Mutex<bool>,
}

impl FakeState {
    pub(super) fn new(log: &Log) -> Arc<Self> {
        let records = watch::Sender::new(Records::default());
        Arc::new(Self { records, log: log.clone(), is_broken: Mutex::new(false) })
    }

    pub(super) fn records(&self) -> Records {
        self.records.borrow().clone()
    }
}

fn write<T>(held: &mut Held<T>, value: T, seen: u64) -> Result<(), StateError> {
    if held.version != seen {
        return Err(StateError::Moved);
    }
    *held = Held { version: seen + 1, value: Some(value) };
    Ok(())
}

impl AcmeState for FakeState {
    fn load(&self) -> Result<Records, StateError> {
        Ok(self.records())
    }

    fn changed(&self, versions: [u64; 3]) -> BoxFuture<'_, ()> {
        let mut records = self.records.subscribe();
        async move {
            records.wait_for(|records| records.versions() != versions).await.unwrap();
        }
        .boxed()
    }

    fn save(&self, record: Record, seen: u64) -> BoxFuture<'_, Result<(), StateError>> {
        async move {
            if *self.is_broken.lock().unwrap() {
                return Err(StateError::Store("no quorum".into()));
            }
            let mut saved = Ok(());
            self.records.send_modify(|records| {
                saved = match record {
                    Record::Account(one) => {
                        self.log.note("save account");
                        write(&mut records.account, one, seen)
                    }
                    Record::Certificate(one) => {
                        self.log.note("save certificate");
                        write(&mut records.certificate, one, seen)
                    }
                    Record::Attempt(one) => {
                        let order = one.order.as_ref();
                        let challenge = order.and_then(|order| order.challenge);
                        self.log.note(match (order, challenge) {
                            (None, _) => "save attempt",
                            (Some(_), None) => "save order",
                            (Some(_), Some(_)) => "save challenge",
                        });
                        write(&mut records.attempt, one, seen)
                    }
                };
            });
            saved
        }
        .boxed()
    }

    fn spread(&self, _digest: Digest, _patience: Duration) -> BoxFuture<'_, ()> {
        self.log.note("spread");
        std::future::ready(()).boxed()
    }
}

/// A server of certificates.
#[derive(Clone, Debug)]
pub(super) struct FakeAcme(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: Log,
    clock: Arc<PausedClock>,
    validity: Duration,
    window: Mutex<Option<Window>>,
    /// What goes wrong with the next calls of a name.
    trouble: Mutex<BTreeMap<&'static str, VecDeque<Trouble>>>,
    orders: Mutex<BTreeMap<String, FakeOrder>>,
    accounts: Mutex<u32>,
    issuer: Issuer<'static, KeyPair>,
}

#[derive(Clone, Debug)]
struct FakeOrder {
    progress: Progress,
    chain: String,
}

/// What goes wrong.
#[derive(Debug)]
pub(super) enum Trouble {
    Refused(&'static str),
    Lost,
    Hangs,
}

impl FakeAcme {
    pub(super) fn new(log: &Log, clock: &Arc<PausedClock>, validity: Duration) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let inner = Inner {
            log: log.clone(),
            clock: Arc::clone(clock),
            validity,
            window: Mutex::default(),
            trouble: Mutex::default(),
            orders: Mutex::default(),
            accounts: Mutex::default(),
            issuer: Issuer::new(params, key),
        };
        Self(Arc::new(inner))
    }

    pub(super) fn next(&self, call: &'static str, trouble: Trouble) {
        self.0.trouble.lock().unwrap().entry(call).or_default().push_back(trouble);
    }

    pub(super) fn set_window(&self, window: Window) {
        *self.0.window.lock().unwrap() = Some(window);
    }

    pub(super) fn set_progress(&self, order: &str, progress: Progress) {
        self.orders().get_mut(order).unwrap().progress = progress;
    }

    pub(super) fn forget_everything(&self) {
        *self.0.accounts.lock().unwrap() = 0;
        self.orders().clear();
    }

    fn orders(&self) -> MutexGuard<'_, BTreeMap<String, FakeOrder>> {
        self.0.orders.lock().unwrap()
    }

    async fn call(&self, name: &'static str) -> Result<(), AcmeError> {
        self.0.log.note(name);
        let trouble = {
            let mut all = self.0.trouble.lock().unwrap();
            all.get_mut(name).and_then(VecDeque::pop_front)
        };
        match trouble {
            None => Ok(()),
            Some(Trouble::Refused(kind)) => Err(refused(kind)),
            Some(Trouble::Lost) => Err(AcmeError::Call("connection reset".into())),
            Some(Trouble::Hangs) => std::future::pending().await,
        }
    }

    fn issue(&self, csr: &[u8]) -> String {
        let csr = CertificateSigningRequestDer::from(csr);
        let mut csr = CertificateSigningRequestParams::from_der(&csr).unwrap();
        let now = self.0.clock.now();
        csr.params.not_before = now.to_system_time().into();
        csr.params.not_after = now.plus(self.0.validity).to_system_time().into();
        csr.signed_by(&self.0.issuer).unwrap().pem()
    }
}

fn refused(kind: &str) -> AcmeError {
    AcmeError::Refused { kind: kind.into(), text: format!("no: {kind}") }
}

impl Acme for FakeAcme {
    fn register<'a>(
        &'a self,
        _settings: &'a AcmeSettings,
    ) -> BoxFuture<'a, Result<Secret, AcmeError>> {
        async move {
            self.call("register").await?;
            let mut accounts = self.0.accounts.lock().unwrap();
            *accounts += 1;
            Ok(Secret::new(accounts.to_string().into_bytes()))
        }
        .boxed()
    }

    fn open<'a>(
        &'a self,
        _credentials: &'a Secret,
    ) -> BoxFuture<'a, Result<Box<dyn AcmeAccount>, AcmeError>> {
        let account: Box<dyn AcmeAccount> = Box::new(self.clone());
        std::future::ready(Ok(account)).boxed()
    }
}

impl AcmeAccount for FakeAcme {
    fn order<'a>(&'a self, domain: &'a str) -> BoxFuture<'a, Result<String, AcmeError>> {
        async move {
            assert_eq!(domain, DOMAIN);
            self.call("order").await?;
            if *self.0.accounts.lock().unwrap() == 0 {
                return Err(refused("accountDoesNotExist"));
            }
            let mut orders = self.orders();
            let url = format!("order {}", orders.len());
            let progress = Progress::Pending { challenge: [7; 32], is_asked: false };
            orders.insert(url.clone(), FakeOrder { progress, chain: String::new() });
            Ok(url)
        }
        .boxed()
    }

    fn look<'a>(&'a self, order: &'a str) -> BoxFuture<'a, Result<Progress, AcmeError>> {
        async move {
            let found = self.orders().get(order).map(|order| order.progress.clone());
            found.ok_or_else(|| refused("malformed"))
        }
        .boxed()
    }

    fn validate<'a>(&'a self, order: &'a str) -> BoxFuture<'a, Result<(), AcmeError>> {
        async move {
            self.call("validate").await?;
            self.set_progress(order, Progress::Ready);
            Ok(())
        }
        .boxed()
    }

    fn finalize<'a>(
        &'a self,
        order: &'a str,
        csr: &'a [u8],
    ) -> BoxFuture<'a, Result<(), AcmeError>> {
        async move {
            self.call("finalize").await?;
            let chain = self.issue(csr);
            *self.orders().get_mut(order).unwrap() = FakeOrder { progress: Progress::Valid, chain };
            Ok(())
        }
        .boxed()
    }

    fn certificate<'a>(&'a self, order: &'a str) -> BoxFuture<'a, Result<String, AcmeError>> {
        async move {
            self.call("certificate").await?;
            Ok(self.orders().get(order).unwrap().chain.clone())
        }
        .boxed()
    }

    fn renewal<'a>(&'a self, _leaf: &'a [u8]) -> BoxFuture<'a, Result<Option<Window>, AcmeError>> {
        std::future::ready(Ok(*self.0.window.lock().unwrap())).boxed()
    }
}
