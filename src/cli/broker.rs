//! What the commands that talk to a broker share: which one, which exchange, and a unit that is only this command.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::plain;
use crate::config::{Broker, BrokerUrl, ConfigError, Places, Site, UnitDir, UnitName};
use crate::flow::{State, Unit};
use crate::message::{Exchange, ExchangeKind};
use crate::metrics::Metrics;

/// A broker of px.toml by name, or a URL that holds no password. One that nobody could log in to for want of a password
/// is refused here: the broker would only say that it does not know us.
pub fn find(places: &Places, text: &str) -> anyhow::Result<Broker> {
    if !text.contains(':') {
        let (site, errors) = Site::load(places);
        return match site.broker(text) {
            Some(broker) => {
                tell_passwords(places, broker, &errors)?;
                Ok(broker.clone())
            }
            None => {
                let mut said: Vec<String> = errors.iter().map(ToString::to_string).collect();
                said.push(format!("{} has no broker {text:?}", places.site_file().display()));
                anyhow::bail!("{}", said.join("\n"))
            }
        };
    }
    if text.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split('/').next().unwrap_or_default();
        authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    }) {
        anyhow::bail!("a password on a command line is everybody's: put it into secrets.toml and name the broker");
    }
    let url = BrokerUrl::parse(text, places).map_err(anyhow::Error::msg)?;
    Ok(Broker::new("given", url))
}

/// What is wrong with secrets.toml, a line each: why passwords are missing that stand there.
pub fn secrets_faults(places: &Places, findings: &[ConfigError]) -> Vec<String> {
    let file = places.secrets_file();
    findings
        .iter()
        .filter(|finding| !finding.warning && finding.file == file)
        .map(ToString::to_string)
        .collect()
}

/// Whoever has a password from elsewhere goes on, and is only told what is wrong with the file: what serves must not be
/// taken for dead.
fn tell_passwords(places: &Places, broker: &Broker, findings: &[ConfigError]) -> anyhow::Result<()> {
    let mut missing: Vec<&str> = broker
        .urls
        .iter()
        .filter(|url| url.lacks_password())
        .map(|url| url.user.as_str())
        .collect();
    missing.dedup();
    let nobody_has_one = broker.urls.iter().all(BrokerUrl::lacks_password);
    let faults = secrets_faults(places, findings);
    anyhow::ensure!(faults.is_empty() || missing.is_empty(), "{}", faults.join("\n"));
    anyhow::ensure!(
        !nobody_has_one,
        "no password for {}: put it into {} (mode 0600) under [{}]",
        missing.join(", "),
        places.secrets_file().display(),
        broker.name
    );
    for fault in faults {
        eprintln!("px: {}", plain(&fault));
    }
    Ok(())
}

/// The exchange by name, durable and topic unless px.toml says otherwise of it; the broker's own without a name.
pub fn exchange(broker: &Broker, name: Option<&str>) -> anyhow::Result<Exchange> {
    match (name, &broker.exchange) {
        (Some(name), Some(own)) if own.name == name => Ok(own.clone()),
        (None, Some(own)) => Ok(own.clone()),
        (Some(name), _) => Ok(Exchange {
            name: name.to_owned(),
            kind: ExchangeKind::Topic,
            durable: true,
            auto_delete: false,
        }),
        (None, None) => anyhow::bail!("broker {} names no exchange: say --exchange NAME", broker.name),
    }
}

/// A unit that lives as long as the command.
pub fn passing_unit(places: &Places, name: &str) -> anyhow::Result<Unit> {
    Ok(Unit {
        name: UnitName::new(UnitDir::Process, name).map_err(anyhow::Error::msg)?,
        places: places.clone(),
        metrics: Arc::new(Metrics::default()),
        state: State::default(),
        stop: CancellationToken::new(),
        abandon: CancellationToken::new(),
    })
}

/// Says on standard error why nothing happens, for as long as it is awaited.
pub async fn complain(unit: &Unit) {
    let mut changes = unit.state.subscribe();
    let mut said = None;
    while changes.changed().await.is_ok() {
        let error = changes
            .borrow_and_update()
            .links
            .values()
            .find_map(|link| link.error.clone());
        if error.is_some() && error != said {
            eprintln!("px: {}; trying again", plain(error.as_deref().unwrap_or_default()));
        }
        said = error;
    }
}
