use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

use super::*;
use crate::broker::{Connection, Returns, connect};
use crate::config::{BrokerUrl, Places, UnitName};
use crate::flow::State;
use crate::message::{Binding, Exchange, ExchangeKind};

const SOON: Duration = Duration::from_secs(30);

/// Works on each delivery as `work` says; counts the pieces of work that began and those that live.
struct Worker {
    work: fn(usize) -> BoxFuture<'static, Outcome>,
    begun: watch::Sender<usize>,
    alive: Arc<AtomicUsize>,
    redelivered: Mutex<Vec<bool>>,
}

struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Worker {
    fn new(work: fn(usize) -> BoxFuture<'static, Outcome>) -> Arc<Self> {
        Arc::new(Worker {
            work,
            begun: watch::Sender::new(0),
            alive: Arc::default(),
            redelivered: Mutex::default(),
        })
    }

    async fn until_begun(&self, times: usize) {
        let mut begun = self.begun.subscribe();
        let begun = tokio::time::timeout(SOON, begun.wait_for(|begun| *begun >= times));
        begun.await.unwrap().unwrap();
    }
}

#[async_trait]
impl Handle for Worker {
    type Note = ();

    async fn begin(&self, input: &Arc<Input>) -> (Step, ()) {
        self.redelivered.lock().unwrap().push(input.redelivered);
        let number = *self.begun.borrow();
        self.alive.fetch_add(1, Ordering::SeqCst);
        let (alive, work) = (Alive(Arc::clone(&self.alive)), (self.work)(number));
        self.begun.send_modify(|begun| *begun += 1);
        let work = async move {
            let outcome = work.await;
            drop(alive);
            outcome
        };
        (Step::Later(Box::pin(work)), ())
    }

    async fn outputs_safe(&self, _: &Input, (): &()) -> Result<(), Cause> {
        Ok(())
    }

    fn undone(&self, _: &Input, (): &()) {}
}

struct World {
    unit: Unit,
    intake: Intake,
    connection: Box<dyn Connection>,
    _dir: tempfile::TempDir,
}

/// An embedded broker with one announcement in the queue of a unit.
async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let places = Places::under(dir.path());
    let url = format!("embedded:{}", dir.path().join("broker.db").display());
    let broker = Broker::new("own", BrokerUrl::parse(&url, &places).unwrap());
    let queue = Queue {
        name: "q".into(),
        durable: true,
        ..Queue::default()
    };
    let topology = Topology {
        exchanges: vec![Exchange {
            name: "x".into(),
            kind: ExchangeKind::Topic,
            durable: true,
            auto_delete: false,
        }],
        queues: vec![queue.clone()],
        bindings: vec![Binding {
            exchange: "x".into(),
            queue: "q".into(),
            key: "#".into(),
        }],
    };
    let connection = connect(&broker, Purpose::Publish, "test").await.unwrap();
    connection.declare(&topology).await.unwrap();
    let confirm = connection.publish("x", &Envelope::default(), Returns::Counted).await;
    confirm.unwrap().await.unwrap();
    World {
        unit: Unit {
            name: "rx/a".parse::<UnitName>().unwrap(),
            places,
            metrics: Arc::default(),
            state: State::default(),
            stop: CancellationToken::new(),
            abandon: CancellationToken::new(),
        },
        intake: Intake {
            broker,
            topology,
            queue,
            prefetch: 1,
            channels: 1,
            adopt_after: SOON,
            give_up_after: SOON,
        },
        connection,
        _dir: dir,
    }
}

fn open() -> watch::Receiver<bool> {
    watch::Sender::new(true).subscribe()
}

/// With a prefetch of one, a delivery that nobody answers for would be the unit's last.
#[tokio::test]
async fn a_delivery_whose_work_panics_is_told_of_and_delivered_again() {
    let world = world().await;
    let worker = Worker::new(|number| match number {
        0 => Box::pin(async { panic!("on purpose") }),
        _ => Box::pin(async { Outcome::Done(Vec::new()) }),
    });
    let running = tokio::spawn({
        let (unit, intake, worker) = (world.unit.clone(), world.intake.clone(), Arc::clone(&worker));
        async move { run(&unit, intake, worker, None, open()).await }
    });
    let mut states = world.unit.state.subscribe();
    let told = states.wait_for(|state| state.word().contains("a fault of px itself"));
    tokio::time::timeout(SOON, told).await.unwrap().unwrap();
    worker.until_begun(2).await;
    world.unit.stop.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(world.connection.depth("q").await.unwrap(), Some(0));
}

/// To the broker, what comes off a rung is new.
#[tokio::test]
async fn what_was_parked_may_have_been_worked_on() {
    let world = world().await;
    let parked = crate::flow::park::with_history(&Envelope::default(), 0, Timestamp::now());
    let confirm = world.connection.publish("x", &parked, Returns::Counted).await;
    confirm.unwrap().await.unwrap();
    let worker = Worker::new(|_| Box::pin(async { Outcome::Done(Vec::new()) }));
    let running = tokio::spawn({
        let (unit, intake, worker) = (world.unit.clone(), world.intake.clone(), Arc::clone(&worker));
        async move { run(&unit, intake, worker, None, open()).await }
    });
    worker.until_begun(2).await;
    world.unit.stop.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(*worker.redelivered.lock().unwrap(), [false, true]);
}

/// Else it would go on beside the work of the configuration that a reload begins with.
#[tokio::test]
async fn an_adopted_delivery_that_is_abandoned_is_let_go_of_and_taken_up_by_the_next_run() {
    let mut world = world().await;
    world.intake.adopt_after = Duration::from_millis(1);
    let worker = Worker::new(|number| match number {
        0 => Box::pin(std::future::pending()),
        _ => Box::pin(async { Outcome::Done(Vec::new()) }),
    });
    let first = tokio::spawn({
        let (unit, intake, worker) = (world.unit.clone(), world.intake.clone(), Arc::clone(&worker));
        async move { run(&unit, intake, worker, None, open()).await }
    });
    let adopted = async {
        while world.unit.metrics.get(crate::metrics::Count::Adopted) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, adopted).await.unwrap();
    world.unit.stop.cancel();
    world.unit.abandon.cancel();
    first.await.unwrap().unwrap();
    assert_eq!(worker.alive.load(Ordering::SeqCst), 0);

    let unit = Unit {
        stop: CancellationToken::new(),
        abandon: CancellationToken::new(),
        ..world.unit.clone()
    };
    let next = tokio::spawn({
        let (unit, intake, worker) = (unit.clone(), world.intake.clone(), Arc::clone(&worker));
        async move { run(&unit, intake, worker, None, open()).await }
    });
    worker.until_begun(2).await;
    unit.stop.cancel();
    next.await.unwrap().unwrap();
    assert_eq!(worker.alive.load(Ordering::SeqCst), 0);
}
