//! Exchanges that the files of a site declare in two ways. A broker has one of a name: who comes second is refused, or
//! works with another exchange than its file says.

use std::path::{Path, PathBuf};

use crate::config::{Administration, Broker, BrokerUrl, ConfigError, Places, Site};
use crate::message::Exchange;

/// An exchange as one file has it.
pub struct Declared {
    file: PathBuf,
    urls: Vec<BrokerUrl>,
    exchange: Exchange,
}

impl Declared {
    /// An exchange that a unit of this file declares on its broker.
    pub fn new(file: &Path, broker: &Broker, exchange: &Exchange) -> Declared {
        Declared {
            file: file.to_path_buf(),
            urls: broker.urls.clone(),
            exchange: exchange.clone(),
        }
    }

    /// One broker may have several names in px.toml.
    fn is_of_the_same(&self, other: &Declared) -> bool {
        let place = |url: &BrokerUrl| (url.host.clone(), url.port, url.vhost.clone(), url.path.clone());
        let is_shared = |url: &BrokerUrl| other.urls.iter().any(|theirs| place(theirs) == place(url));
        self.exchange.name == other.exchange.name && self.urls.iter().any(is_shared)
    }

    fn differs_from(&self, first: &Declared) -> Option<ConfigError> {
        let (own, theirs) = (&self.exchange, &first.exchange);
        let is_refused = own.kind != theirs.kind;
        let kinds = [own, theirs].map(|exchange| format!("{:?}", exchange.kind.name()));
        let differing: Vec<String> = [
            ("type", kinds),
            ("durable", [own, theirs].map(|exchange| exchange.durable.to_string())),
            (
                "auto_delete",
                [own, theirs].map(|exchange| exchange.auto_delete.to_string()),
            ),
        ]
        .into_iter()
        .filter(|(_, [own, theirs])| own != theirs)
        .map(|(key, [own, theirs])| format!("{key} = {own} here, {theirs} there"))
        .collect();
        let outcome = match is_refused {
            true => "who declares it second is refused",
            false => "it is as who comes first declares it",
        };
        (!differing.is_empty()).then(|| ConfigError {
            file: self.file.clone(),
            line: 0,
            key: String::new(),
            value: String::new(),
            accepted: format!(
                "exchange {:?} is declared otherwise by {}: {}; {outcome}",
                own.name,
                first.file.display(),
                differing.join(", ")
            ),
            warning: true, // each file alone is good, and its unit starts
        })
    }
}

/// Those of px.toml, and of broker.toml where there is one.
pub fn of_site(places: &Places) -> Vec<Declared> {
    let (site, _) = Site::load(places);
    let file = places.site_file();
    let brokers = site.broker_names().filter_map(|name| site.broker(name));
    let mut all: Vec<Declared> = brokers
        .filter_map(|broker| Some(Declared::new(&file, broker, broker.exchange.as_ref()?)))
        .collect();
    let file = places.administration_file();
    let wanted = file.exists().then(|| Administration::load(&site, &file).0).flatten();
    for wanted in wanted
        .iter()
        .flat_map(|wanted| wanted.exchanges.iter().map(|exchange| (&wanted.broker, exchange)))
    {
        let (broker, exchange) = wanted;
        let mut broker = broker.clone();
        broker
            .urls
            .iter_mut()
            .for_each(|url| url.vhost.clone_from(&exchange.vhost));
        all.push(Declared::new(&file, &broker, &exchange.as_declared()));
    }
    all
}

/// What is declared otherwise than by the first that has an exchange of this name on this broker, and where. What is as
/// px.toml has it is told of px.toml alone.
pub fn differing(declared: &[Declared]) -> Vec<ConfigError> {
    let mut findings = Vec::new();
    for (index, own) in declared.iter().enumerate() {
        let mut before = declared[..index].iter().filter(|other| other.is_of_the_same(own));
        findings.extend(before.next().and_then(|first| own.differs_from(first)));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `px check` says of exchanges, without the directory.
    fn told(files: &[(&str, &str)]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let places = Places::under(root.path());
        for (name, text) in files {
            let path = places.etc.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        }
        let report = crate::flow::check(&places);
        let etc = format!("{}/", places.etc.display());
        let findings = report
            .findings()
            .iter()
            .map(|finding| finding.to_string().replace(&etc, ""));
        findings.filter(|finding| finding.contains("exchange")).collect()
    }

    const SITE: &str = "[brokers.a]\nurls = [\"amqp://u:p@h/v\"]\nexchange = \"x\"\n\
                        [brokers.alias]\nurls = [\"amqp://w:p@h/v\"]\n[brokers.other]\nurls = [\"amqp://u:p@h/w\"]\n";

    fn sender(broker: &str, exchange: &str) -> String {
        format!("type = \"amqp\"\nbroker = {broker:?}\nkey = \"k\"\n{exchange}\n")
    }

    #[test]
    fn an_exchange_that_two_files_have_otherwise_is_told_with_both() {
        let pull = "type = \"pull\"\nbroker = \"a\"\nqueue = \"q\"\ndirectory = \"/tmp\"\n\
                    bind = [{ exchange = { name = \"y\", durable = false }, key = \"k\" }]\n";
        let files = [
            ("px.toml", SITE.to_string()),
            ("tx/as-the-site.toml", sender("a", "")),
            (
                "tx/direct.toml",
                sender("alias", "exchange = { name = \"x\", type = \"direct\" }"),
            ),
            (
                "tx/elsewhere.toml",
                sender("other", "exchange = { name = \"x\", type = \"direct\" }"),
            ),
            ("tx/second.toml", sender("a", "exchange = \"y\"")),
            ("rx/first.toml", pull.to_string()),
            (
                "broker.toml",
                "broker = \"other\"\nvhosts = [\"v\"]\n[[exchanges]]\nname = \"y\"\nauto_delete = true\n".to_string(),
            ),
        ];
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        assert_eq!(
            told(&files),
            [
                "rx/first.toml: warning: exchange \"y\" is declared otherwise by broker.toml: durable = false here, true \
                 there, auto_delete = false here, true there; it is as who comes first declares it",
                "tx/direct.toml: warning: exchange \"x\" is declared otherwise by px.toml: type = \"direct\" here, \"topic\" there; \
                 who declares it second is refused",
                "tx/second.toml: warning: exchange \"y\" is declared otherwise by broker.toml: auto_delete = false here, true \
                 there; it is as who comes first declares it",
            ]
        );
    }
}
