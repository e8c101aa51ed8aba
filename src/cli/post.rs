//! `px post`: announces files by hand, as a watcher would.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use jiff::Timestamp;

use super::broker;
use super::{REFUSED, plain, say};
use crate::broker::{Confirmed, Returns};
use crate::config::Places;
use crate::flow::publish::{Options, Publisher};
use crate::message::{
    AnnounceAs, Announcement, ContentHasher, DigestOf, Envelope, Format, Identity, Method, ProductPath, Topology,
    UnitHeaders, encode,
};

/// What to announce, and where.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A broker of px.toml, or a URL without a password
    broker: String,
    /// The files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The directory that the URL stands for
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// The URL of that directory
    #[arg(long)]
    url: String,
    /// The exchange; the broker's own when absent
    #[arg(long)]
    exchange: Option<String>,
    /// exp, v00, v02 or v03; repeat it for several, published in that order
    #[arg(long, value_parser = format_name, default_values = ["v02"])]
    format: Vec<Format>,
    /// What the key begins with, in place of the format's usual beginning
    #[arg(long)]
    key: Option<String>,
    /// Give up when nothing is confirmed within this many seconds
    #[arg(long, default_value_t = 30)]
    timeout: u64,
}

fn format_name(text: &str) -> Result<Format, String> {
    Format::from_name(text).ok_or_else(|| "accepted: exp, v00, v02, v03".to_owned())
}

/// Announces every file, confirmed. 1 when one could not be, or when nobody is bound to see it.
pub fn run(places: &Places, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let broker = broker::find(places, &arguments.broker)?;
    let exchange = broker::exchange(&broker, arguments.exchange.as_deref())?;
    let how: Vec<AnnounceAs> = arguments
        .format
        .iter()
        .map(|format| AnnounceAs::new(*format, arguments.key.as_deref(), None))
        .collect::<Result<_, _>>()?;
    let mut messages = Vec::new();
    for file in &arguments.files {
        let envelopes =
            announce(file, arguments, &how).with_context(|| format!("cannot announce {}", file.display()))?;
        messages.push((file, envelopes));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let unit = broker::passing_unit(places, "post")?;
        let topology = Topology {
            exchanges: vec![exchange.clone()],
            ..Topology::default()
        };
        let publisher = Publisher::start(&unit, broker, topology, Options::default());
        let publish = publish(&publisher, &exchange.name, messages);
        let limit = tokio::time::sleep(std::time::Duration::from_secs(arguments.timeout));
        tokio::select! {
            code = publish => code,
            () = broker::complain(&unit) => unreachable!("it ends with the unit"),
            () = limit => anyhow::bail!("not confirmed within {} s", arguments.timeout),
        }
    })
}

async fn publish(
    publisher: &Publisher,
    exchange: &str,
    messages: Vec<(&PathBuf, Vec<Envelope>)>,
) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for (file, envelopes) in messages {
        for envelope in envelopes {
            let key = plain(&envelope.key);
            match publisher.submit(exchange, envelope, Returns::Known).await.await? {
                Confirmed::Routed => say(format_args!("{} announced as {key}", file.display())),
                Confirmed::Returned => {
                    eprintln!(
                        "px: {} announced as {key}, but no queue is bound for it",
                        file.display()
                    );
                    code = ExitCode::from(REFUSED);
                }
            }
        }
    }
    Ok(code)
}

fn announce(file: &Path, arguments: &Arguments, how: &[AnnounceAs]) -> anyhow::Result<Vec<Envelope>> {
    let (root, path) = (arguments.root.canonicalize()?, file.canonicalize()?);
    let below = path
        .strip_prefix(&root)
        .with_context(|| format!("it is not below {}", root.display()))?;
    let url: url::Url = arguments.url.parse().context("the URL")?;
    let (base, prefix) = (url.join("/")?, url.path().trim_matches('/'));
    let mut whole = prefix.as_bytes().to_vec();
    if !whole.is_empty() {
        whole.push(b'/');
    }
    whole.extend_from_slice(below.as_os_str().as_bytes());
    let mut announcement = Announcement::new(base.as_str(), ProductPath(whole))?;
    let mut content = File::open(&path)?;
    let mut hasher = ContentHasher::new(&Method::Md5).context("md5")?;
    let (mut buffer, mut size) = (vec![0; 64 << 10], 0);
    loop {
        let read = content.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
    announcement.size = Some(size);
    announcement.identity = Some(Identity {
        method: Method::Md5,
        value: hasher.finish(),
        of: DigestOf::Content,
    });
    let now = Timestamp::now();
    announcement.time = Some(now);
    announcement.mtime = content.metadata()?.modified()?.try_into().ok();
    how.iter()
        .map(|how| Ok(encode(&announcement, how, &UnitHeaders::default(), now)?.envelope))
        .collect()
}
