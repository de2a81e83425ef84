//! The command line of an emitted binary: where the weights are, where to listen, who may call.

use std::{
    ffi::OsString,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    process::exit,
};

/// Exit code of a command line that cannot be obeyed.
const USAGE: i32 = 2;

/// The three things that were not decided when the binary was built.
#[derive(Debug, PartialEq)]
pub struct Args {
    /// The weight image.
    pub weights: PathBuf,
    /// The address to listen on.
    pub listen: SocketAddr,
    /// A file of API keys, one per line. Without one, anybody who reaches the address may call.
    pub api_key_file: Option<PathBuf>,
}

/// What a command line asks for.
#[derive(Debug, PartialEq)]
enum Asked {
    Serve(Args),
    Help,
    Version,
}

impl Args {
    /// Reads the process's command line. `--help` and `--version` print and exit 0; misuse explains itself and exits 2.
    ///
    /// `name` and `about` are the binary's name and its one-line description; `weights` and `listen` the
    /// defaults of the two flags.
    pub fn parse(name: &str, about: &str, weights: &str, listen: &str) -> Args {
        match read(std::env::args_os().skip(1), weights, listen) {
            Ok(Asked::Serve(args)) => args,
            Ok(Asked::Help) => {
                println!("{}", help(name, about, weights, listen));
                exit(0);
            }
            Ok(Asked::Version) => {
                println!("{name}: {about}");
                exit(0);
            }
            Err(error) => {
                eprintln!(
                    "error: {error}\n\nusage: {name} [--weights FILE] [--listen ADDR] [--api-key-file FILE]\n       {name} --help"
                );
                exit(USAGE);
            }
        }
    }
}

fn read(args: impl Iterator<Item = OsString>, weights: &str, listen: &str) -> Result<Asked, String> {
    let (mut image, mut address, mut api_key_file) = (None, None, None);
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy().into_owned();
        let (flag, inline) = match text.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(OsString::from(value))),
            None => (text, None),
        };
        let slot = match flag.as_str() {
            "-h" | "--help" => return Ok(Asked::Help),
            "-V" | "--version" => return Ok(Asked::Version),
            "--weights" => &mut image,
            "--listen" => &mut address,
            "--api-key-file" => &mut api_key_file,
            other => return Err(format!("unexpected argument {other:?}")),
        };
        let value = inline.or_else(|| args.next()).filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| format!("{flag} needs a value"))?;
        if slot.replace(value).is_some() {
            return Err(format!("{flag} is given twice"));
        }
    }
    let listen = match address {
        Some(address) => address.into_string().map_err(|_| "--listen is not UTF-8".to_owned())?,
        None => listen.to_owned(),
    };
    Ok(Asked::Serve(Args {
        weights: image.unwrap_or_else(|| weights.into()).into(),
        listen: resolve(&listen)?,
        api_key_file: api_key_file.map(PathBuf::from),
    }))
}

fn resolve(listen: &str) -> Result<SocketAddr, String> {
    let hint = "give HOST:PORT, such as 127.0.0.1:8000, 0.0.0.0:8000 or [::1]:8000";
    let mut addresses =
        listen.to_socket_addrs().map_err(|error| format!("--listen {listen}: {error}; {hint}"))?;
    addresses.next().ok_or_else(|| format!("--listen {listen}: no such host; {hint}"))
}

fn help(name: &str, about: &str, weights: &str, listen: &str) -> String {
    format!(
        "{about}

usage: {name} [--weights FILE] [--listen ADDR] [--api-key-file FILE]

  --weights FILE       the weight image that this binary was built for, tokenizer included; an image
                       of other weights or for other kernels is refused [default: {weights}]
  --listen ADDR        address and port; 0.0.0.0:8000 serves every interface [default: {listen}]
  --api-key-file FILE  keys, one per line; requests other than GET /health must then carry
                       `Authorization: Bearer KEY` [default: no keys, anybody may call]
  -h, --help           this text
  -V, --version        what this binary was built from

Everything else was decided when it was built. It prints one line when it is ready:

  {name} &
  curl http://{listen}/v1/models
  curl -N http://{listen}/v1/chat/completions -H 'Content-Type: application/json' \\
       -d '{{\"stream\": true, \"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'

SIGTERM or Ctrl-C stops new requests and lets running ones finish; a second one ends at once.
Exit codes: 0 stopped, 1 failed, 2 misused."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(args: &[&str]) -> Result<Asked, String> {
        read(args.iter().map(OsString::from), "models/x", "127.0.0.1:8000")
    }

    #[test]
    fn defaults_and_both_spellings() {
        let defaults =
            Args { weights: "models/x".into(), listen: ([127, 0, 0, 1], 8000).into(), api_key_file: None };
        assert_eq!(args(&[]), Ok(Asked::Serve(defaults)));
        let all =
            Args { weights: "m".into(), listen: ([0, 0, 0, 0], 80).into(), api_key_file: Some("k".into()) };
        assert_eq!(
            args(&["--weights", "m", "--listen=0.0.0.0:80", "--api-key-file", "k"]),
            Ok(Asked::Serve(all))
        );
        assert_eq!(args(&["--weights", "m", "--help"]), Ok(Asked::Help));
        assert_eq!(args(&["-V"]), Ok(Asked::Version));
    }

    #[test]
    fn misuse_is_explained() {
        for (given, said) in [
            (&["--port", "1"][..], "unexpected argument \"--port\""),
            (&["--weights"], "--weights needs a value"),
            (&["--weights="], "--weights needs a value"),
            (&["--weights", "a", "--weights", "b"], "--weights is given twice"),
            (&["--listen", "8000"], "give HOST:PORT"),
        ] {
            let error = args(given).expect_err("refused");
            assert!(error.contains(said), "{error}");
        }
    }
}
