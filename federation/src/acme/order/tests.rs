//! The order against a server in memory, on a clock that is stopped.

use steeple_spiffe_core::random::SeededRandom;

use super::super::fake::{DOMAIN, FakeAcme, FakeState, Log, PausedClock, START, Trouble, settings};
use super::super::report::standing;
use super::*;

const DAY: Duration = Duration::from_secs(86_400);

struct Scene {
    log: Log,
    clock: Arc<PausedClock>,
    state: Arc<FakeState>,
    acme: FakeAcme,
}

fn scene(validity: Duration) -> Scene {
    let (log, clock) = (Log::default(), PausedClock::start());
    let (state, acme) = (FakeState::new(&log), FakeAcme::new(&log, &clock, validity));
    Scene { log, clock, state, acme }
}

impl Scene {
    fn orderer(&self) -> Orderer {
        Orderer {
            settings: settings(),
            acme: Arc::new(self.acme.clone()),
            state: Arc::<FakeState>::clone(&self.state),
            clock: Arc::<PausedClock>::clone(&self.clock),
            random: Arc::new(SeededRandom::new(1)),
        }
    }

    /// One replica leads for so long.
    async fn lead_for(&self, time: Duration) {
        let orderer = self.orderer();
        tokio::time::timeout(time, orderer.lead()).await.unwrap_err();
    }

    fn ends(&self) -> Option<Timestamp> {
        standing(&self.state.records(), &settings(), self.clock.now()).not_after
    }
}

#[tokio::test(start_paused = true)]
async fn each_step_is_kept_before_the_server_is_told_of_the_next() {
    let scene = scene(90 * DAY);
    scene.lead_for(Duration::from_secs(30)).await;
    let steps = [
        "save attempt",
        "register",
        "save account",
        "save attempt",
        "order",
        "save order",
        "save challenge",
        "spread",
        "validate",
        "finalize",
        "certificate",
        "save certificate",
        "save attempt",
    ];
    assert_eq!(scene.log.take(), steps);
    let ends = scene.ends().unwrap().since(START);
    assert!(ends > 89 * DAY && ends < 91 * DAY, "{ends:?}");
    let records = scene.state.records();
    let attempt = records.attempt.value.unwrap();
    assert!(attempt.order.is_none() && attempt.error.is_empty());
    let certificate = records.certificate.value.unwrap();
    assert!(usable(&certificate, &settings()).unwrap().covers(DOMAIN));
    let other = AcmeSettings { domain_name: "other.test".into(), ..settings() };
    assert!(usable(&certificate, &other).is_none());

    // Nothing for two months, and then another one by the same account.
    scene.lead_for(59 * DAY).await;
    assert_eq!(scene.log.take(), [""; 0]);
    scene.lead_for(2 * DAY).await;
    let second = scene.log.take();
    assert_eq!(second.first().map(String::as_str), Some("save attempt"), "{second:?}");
    assert_eq!(second.get(1).map(String::as_str), Some("order"), "{second:?}");
    assert!(scene.ends().unwrap().since(START) > 145 * DAY);
}

#[tokio::test(start_paused = true)]
async fn whoever_leads_next_goes_on_with_the_same_order() {
    for step in ["validate", "finalize", "certificate"] {
        let scene = scene(90 * DAY);
        scene.acme.next(step, Trouble::Hangs);
        scene.lead_for(Duration::from_secs(60)).await;
        assert_eq!(scene.ends(), None, "{step}");
        scene.lead_for(Duration::from_secs(60)).await;
        assert!(scene.ends().is_some(), "{step}");
        let counts = ["register", "order", "save order"].map(|what| scene.log.count(what));
        assert_eq!(counts, [1, 1, 1], "{step}: {:?}", scene.log.take());
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_kept_with_its_reason_and_tried_later_and_later() {
    let scene = scene(90 * DAY);
    for _ in 0..3 {
        scene.acme.next("validate", Trouble::Refused("rejectedIdentifier"));
    }
    scene.lead_for(Duration::from_secs(60)).await;
    let now = scene.clock.now();
    let found = standing(&scene.state.records(), &settings(), now);
    assert!(found.is_late && found.not_after.is_none(), "{found:?}");
    let said =
        "ACME server refuses: no: rejectedIdentifier; correct domain_name in the acme section";
    assert!(found.error.starts_with(said), "{found:?}");
    let next = found.next_attempt.unwrap().since(now);
    assert!(next > Duration::from_secs(50) && next < Duration::from_secs(120), "{next:?}");
    assert_eq!(scene.log.count("order"), 1);
    // A new leader does not begin from nothing.
    scene.lead_for(Duration::from_secs(30)).await;
    assert_eq!(scene.log.count("order"), 1, "it waits");
    scene.lead_for(Duration::from_secs(60)).await;
    assert_eq!(scene.log.count("order"), 2, "after two minutes");
    scene.lead_for(Duration::from_secs(200)).await;
    assert_eq!(scene.log.count("order"), 2, "after four more");
    scene.lead_for(Duration::from_secs(60)).await;
    assert_eq!(scene.log.count("order"), 3);
    scene.lead_for(Duration::from_secs(500)).await;
    assert_eq!(scene.log.count("order"), 4);
    let found = standing(&scene.state.records(), &settings(), scene.clock.now());
    assert!(!found.is_late && found.error.is_empty() && found.next_attempt.is_none(), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn an_order_outlives_a_lost_connection_and_not_an_answer() {
    let scene = scene(90 * DAY);
    scene.acme.next("finalize", Trouble::Lost);
    scene.acme.next("finalize", Trouble::Refused("rateLimited"));
    scene.acme.next("finalize", Trouble::Refused("badCSR"));
    scene.lead_for(Duration::from_secs(3600)).await;
    assert_eq!(scene.log.count("finalize"), 4);
    assert_eq!(scene.log.count("order"), 2);
    assert!(scene.ends().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_forgotten_the_account_gets_a_new_one() {
    let scene = scene(90 * DAY);
    scene.lead_for(Duration::from_secs(60)).await;
    scene.acme.forget_everything();
    scene.lead_for(61 * DAY).await;
    assert_eq!(scene.log.count("register"), 2);
    assert!(scene.ends().unwrap().since(START) > 145 * DAY);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_of_the_server_while_nothing_can_be_kept() {
    let scene = scene(90 * DAY);
    *scene.state.is_broken.lock().unwrap() = true;
    scene.lead_for(Duration::from_secs(600)).await;
    assert_eq!(scene.log.take(), [""; 0]);
    *scene.state.is_broken.lock().unwrap() = false;
    scene.lead_for(Duration::from_secs(60)).await;
    assert!(scene.ends().is_some());
}

#[tokio::test(start_paused = true)]
async fn certificates_of_a_minute_are_renewed_in_time_for_ever() {
    let scene = scene(Duration::from_secs(60));
    scene.lead_for(Duration::from_secs(10)).await;
    for _ in 0..20 {
        scene.lead_for(Duration::from_secs(30)).await;
        assert!(scene.ends().unwrap() > scene.clock.now());
    }
    let count = scene.log.count("save certificate");
    assert!((13..=18).contains(&count), "{count} in ten minutes, one each forty seconds");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_calls_a_certificate_back_gets_its_way_but_not_in_a_circle() {
    let scene = scene(90 * DAY);
    let minute = Duration::from_secs(60);
    // A window that is over, for each new certificate again.
    scene.acme.set_window(Window { start: START.minus(minute), end: START.minus(minute / 2) });
    scene.lead_for(Duration::from_secs(600)).await;
    let count = scene.log.count("save certificate");
    assert!((4..=6).contains(&count), "{count} in ten minutes: one each two minutes");
    // A window as wide as its life: not in the first half.
    let scene = self::scene(90 * DAY);
    scene.acme.set_window(Window { start: START, end: START.plus(90 * DAY) });
    scene.lead_for(44 * DAY).await;
    assert_eq!(scene.log.count("save certificate"), 1);
    scene.lead_for(32 * DAY).await;
    assert_eq!(scene.log.count("save certificate"), 2);
}
