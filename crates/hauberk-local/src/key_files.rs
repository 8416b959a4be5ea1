//! Key and certificate request as files, for proxies that do not make their own.
//!
//! Linkerd's proxy finds `key.p8` and `csr.der` in its identity directory; in Linkerd's image another
//! program writes them and then becomes the proxy. This is that other program's work, called by
//! `hauberk local with-identity`. Our own proxy needs no files, but takes them when they are there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use hauberk_identity::Credentials;
use hauberk_identity::credentials::CredentialsError;

/// Where the files belong.
const DIRECTORY: &str = "LINKERD2_PROXY_IDENTITY_DIR";
/// Who the certificate is to be for: the first of these that is set. linkerd2-proxy takes the
/// second for the first when that is not there.
const NAMES: [&str; 2] =
    ["LINKERD2_PROXY_IDENTITY_SERVER_ID", "LINKERD2_PROXY_IDENTITY_LOCAL_NAME"];

/// Why there are no files.
#[derive(Debug, thiserror::Error)]
pub enum KeyFilesError {
    /// A variable is missing.
    #[error(
        "{0} is not set; hint: this runs as a sidecar, with the settings that the injector writes"
    )]
    Missing(&'static str),
    /// The name is no identity.
    #[error("{name}: {error}")]
    Name {
        /// The variable.
        name: &'static str,
        /// What is wrong with its value.
        error: hauberk_model::workload_id::InvalidWorkloadId,
    },
    /// No key, or no request for that identity.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The directory does not take them.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Makes a key (P-256, PKCS#8) and a request for it (PKCS#10), both in DER, and writes them where
/// the settings of a sidecar say. The key is readable by its owner only. Files that are there are
/// replaced: a restarted proxy gets a new key.
///
/// # Errors
/// When the settings are not those of a sidecar, or the directory cannot be written to.
pub fn write(settings: &BTreeMap<String, String>) -> Result<(), KeyFilesError> {
    let directory = settings.get(DIRECTORY).ok_or(KeyFilesError::Missing(DIRECTORY))?;
    let found = NAMES.iter().find_map(|name| Some((*name, settings.get(*name)?)));
    let (name, identity) = found.ok_or(KeyFilesError::Missing(NAMES[1]))?;
    let identity = identity.parse().map_err(|error| KeyFilesError::Name { name, error })?;
    let credentials = Credentials::generate(identity)?;
    let directory = Path::new(directory);
    replace(&directory.join("key.p8"), 0o400, credentials.key().secret_der())?;
    replace(&directory.join("csr.der"), 0o444, credentials.request_der())
}

fn replace(path: &Path, mode: u32, content: &[u8]) -> Result<(), KeyFilesError> {
    let write = || {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(path)?;
        io::Write::write_all(&mut file, content)
    };
    write().map_err(|error| KeyFilesError::Write { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const WEB: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_files_are_a_key_and_a_request_for_the_name_in_the_settings() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let settings = settings(&[(DIRECTORY, path), (NAMES[1], WEB)]);
        let mut before = Vec::new();
        for _ in 0..2 {
            write(&settings).unwrap();
            let key = fs::read(directory.path().join("key.p8")).unwrap();
            let request = fs::read(directory.path().join("csr.der")).unwrap();
            Credentials::from_der(WEB.parse().unwrap(), &key, &request).unwrap();
            assert_ne!(key, before, "each start has its own key");
            before = key;
        }
        let mode = fs::metadata(directory.path().join("key.p8")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
    }

    #[test]
    fn what_is_missing_is_named() {
        let check = |pairs: &[(&str, &str)], expect: &str| {
            let error = write(&settings(pairs)).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check(&[], DIRECTORY);
        check(&[(DIRECTORY, "/tmp")], NAMES[1]);
        check(&[(DIRECTORY, "/tmp"), (NAMES[1], "not a name")], NAMES[1]);
        check(&[(DIRECTORY, "/nowhere/at/all"), (NAMES[1], WEB)], "/nowhere/at/all/key.p8");
    }
}
