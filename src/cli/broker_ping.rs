//! `px broker ping`: does the broker serve whom it should? Asked as a unit asks: by logging in.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::join_all;

use super::{REFUSED, broker, plain, say};
use crate::broker::management::Management;
use crate::broker::{Purpose, connect};
use crate::config::{Broker, BrokerUrl, Places, Scheme, Site, quantity};
use crate::flow::chain;
use crate::message::Fault;

/// Every broker has it.
const EXCHANGE: &str = "amq.direct";

/// Whom to ask.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A broker of px.toml, or a URL without a password; the broker of px.toml where it has only one
    broker: Option<String>,
    /// How long the whole may last; several URLs share it
    #[arg(long, value_parser = timeout, default_value = "2s")]
    timeout: Duration,
    /// Every URL of the broker has to answer; otherwise the first that does is enough
    #[arg(long)]
    all: bool,
    /// Fail, too, while an alarm keeps publishers waiting; the broker's management API is asked. Not for keepalived:
    /// an alarm blocks every node of a cluster, and an address that moves helps nobody
    #[arg(long)]
    fail_on_alarm: bool,
}

fn timeout(text: &str) -> Result<Duration, String> {
    let positive = quantity::duration(text).filter(|duration| !duration.is_zero());
    positive.ok_or_else(|| format!("accepted: {}, more than 0", quantity::DURATION))
}

/// Prints one line for each URL that has answered, or the reasons why none has.
pub fn run(places: &Places, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + arguments.timeout;
    let broker = match &arguments.broker {
        Some(text) => broker::find(places, text)?,
        None => only(places)?,
    };
    let management = match arguments.fail_on_alarm {
        true => Some(Management::new(&broker)?),
        false => None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let is_well = runtime.block_on(async {
        let has_answered = match arguments.all {
            true => join_all(broker.urls.iter().map(|url| answers(&broker, url, deadline)))
                .await
                .into_iter()
                .all(|answers| answers),
            false => any(&broker, deadline).await,
        };
        match &management {
            Some(management) if has_answered => takes_messages(management, deadline).await,
            _ => has_answered,
        }
    });
    // A name server that does not answer holds a thread of the runtime: nobody waits for it.
    runtime.shutdown_background();
    Ok(match is_well {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(REFUSED),
    })
}

fn only(places: &Places) -> anyhow::Result<Broker> {
    let (site, errors) = Site::load(places);
    let names: Vec<&str> = site.broker_names().collect();
    match names[..] {
        [name] => broker::find(places, name),
        _ => {
            let mut said: Vec<String> = errors.iter().map(ToString::to_string).collect();
            let names = if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            };
            let file = places.site_file();
            said.push(format!("name the broker to ping; {} has: {names}", file.display()));
            anyhow::bail!("{}", said.join("\n"))
        }
    }
}

/// As written, one after the other, each within its share of what is left: the rest is not even disturbed.
async fn any(broker: &Broker, deadline: Instant) -> bool {
    for (number, url) in broker.urls.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let candidates = (broker.urls.len() - number) as u32;
        if answers(broker, url, Instant::now() + left / candidates).await {
            return true;
        }
    }
    false
}

/// Asks one URL, and says how that went.
async fn answers(broker: &Broker, url: &BrokerUrl, deadline: Instant) -> bool {
    let began = Instant::now();
    let limit = deadline.saturating_duration_since(began);
    let one = Broker {
        urls: vec![url.clone()],
        connect_timeout: limit,
        reply_timeout: limit,
        ..broker.clone()
    };
    // A task of its own: whatever holds it up, the clock here goes on.
    let asking = tokio::spawn(async move { ask(&one).await });
    let said = match tokio::time::timeout_at(deadline.into(), asking).await {
        Ok(Ok(said)) => said,
        Ok(Err(panic)) => Err(panic.to_string()),
        Err(_) => Err(format!("{url}: no answer within {limit:.3?}")),
    };
    match &said {
        Ok(()) => say(plain(&format!("{url} answers, {:.1?}", began.elapsed()))),
        Err(why) => eprintln!("px: {}", plain(why)),
    }
    said.is_ok()
}

/// Whether nothing blocks publishers; says what does, or why that is not known.
async fn takes_messages(management: &Management, deadline: Instant) -> bool {
    let why = match tokio::time::timeout_at(deadline.into(), management.alarms()).await {
        Ok(Ok(alarms)) if alarms.is_empty() => return true,
        Ok(Ok(alarms)) => format!("publishers have to wait: alarm: {}", alarms.join(", ")),
        Ok(Err(error)) => format!("alarms are not known: {error}"),
        Err(_) => "alarms are not known: the management API has not answered in time".to_owned(),
    };
    eprintln!("px: {}", plain(&why));
    false
}

/// A login, a channel with a question and its answer, and an orderly end.
async fn ask(broker: &Broker) -> Result<(), String> {
    let missing = broker
        .urls
        .iter()
        .find(|url| url.scheme == Scheme::Embedded && !url.path.exists());
    if let Some(url) = missing {
        // Asking would make it.
        return Err(format!("{url}: there is no such file: no unit has used it yet"));
    }
    let connection = connect(broker, Purpose::Publish, "px broker ping")
        .await
        .map_err(|error| chain(&error))?;
    let answer = connection.has_exchange(EXCHANGE).await;
    connection.close().await;
    match answer {
        // From RabbitMQ 4.3 on it refuses who has no right at all on the exchange: that is an answer of a broker that lives.
        Err(error) if error.fault != Fault::Own => Err(chain(&error)),
        _ => Ok(()),
    }
}
