//! A bundle over `https_web`: from a server that shows certificates of the web, to one that trusts
//! an authority as it trusts those of its machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use steeple_testkit::process::wait_for;
use steeple_testkit::{Cluster, ClusterSpec, ports};

use crate::bundles::done;
use crate::refreshing::{MINUTE, SOON, keys, until_keys};

/// A root with an authority below it.
struct Authority {
    root_pem: String,
    below_pem: String,
    below: Issuer<'static, KeyPair>,
}

fn authority(name: &str) -> Authority {
    let ca = |name: String| {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (params, KeyPair::generate().unwrap())
    };
    let (root, root_key) = ca(name.to_owned());
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let root = Issuer::new(root, root_key);
    let (below, below_key) = ca(format!("{name}, below"));
    let below_pem = below.signed_by(&below_key, &root).unwrap().pem();
    Authority { root_pem, below_pem, below: Issuer::new(below, below_key) }
}

impl Authority {
    /// A leaf for a host's name, which ends with this year or does not.
    fn leaf(&self, key: &KeyPair, host: &str, ends: Option<i32>) -> String {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if let Some(year) = ends {
            params.not_after = rcgen::date_time_ymd(year, 12, 31);
        }
        params.signed_by(key, &self.below).unwrap().pem()
    }

    /// A chain for a host's name, leaf first.
    fn chain(&self, key: &KeyPair, host: &str, ends: Option<i32>) -> String {
        format!("{}{}", self.leaf(key, host, ends), self.below_pem)
    }
}

/// A server whose endpoint shows what is in these files.
async fn server(folder: &Path, port: u16, chain: &Path, key: &Path) -> Cluster {
    let server_lines = format!(
        "  federation {{\n    bundle_endpoint {{\n      address = \"127.0.0.1\"\n      port = {port}\n      \
         refresh_hint = \"1s\"\n      profile \"https_web\" {{\n        serving_cert_file {{\n          \
         cert_file_path = \"{}\"\n          key_file_path = \"{}\"\n          \
         file_sync_interval = \"100ms\"\n        }}\n      }}\n    }}\n  }}\n",
        chain.display(),
        key.display()
    );
    let spec = ClusterSpec {
        trust_domain: "bar.test",
        server_lines,
        members: 1,
        ..ClusterSpec::default()
    };
    started(folder, &spec).await
}

/// A server that fetches from there, and trusts the roots of this file.
async fn client(folder: &Path, port: u16, roots: PathBuf) -> Cluster {
    let server_lines = format!(
        "  federation {{\n    federates_with \"bar.test\" {{\n      \
         bundle_endpoint_url = \"https://localhost:{port}\"\n      \
         bundle_endpoint_profile \"https_web\" {{}}\n    }}\n  }}\n"
    );
    let spec = ClusterSpec {
        trust_domain: "foo.test",
        server_lines,
        members: 1,
        environment: vec![("SSL_CERT_FILE", roots)],
        refresh_minute: Some(MINUTE),
        ..ClusterSpec::default()
    };
    started(folder, &spec).await
}

async fn started(folder: &Path, spec: &ClusterSpec) -> Cluster {
    let mut cluster = Cluster::prepare(folder, spec).unwrap();
    cluster.start_member(0).unwrap();
    cluster.wait_ready(SOON).await.unwrap();
    cluster
}

/// Refreshes until it is refused for this reason, or succeeds.
async fn until_refresh(cluster: &Cluster, refused: Option<&str>) {
    let waited = wait_for("what becomes of a refresh", Duration::from_secs(10), async || {
        let output = cluster.member(0)?.cli(&["federation", "refresh", "-id", "bar.test"])?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::ensure!(output.status.success() == refused.is_none(), "{text}");
        anyhow::ensure!(text.contains(refused.unwrap_or_default()), "{text}");
        Ok(())
    });
    waited.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_the_web_is_believed_by_its_chain_its_name_and_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let [port] = ports::lease().unwrap();
    let (trusted, stranger) = (authority("trusted"), authority("stranger"));
    let leaf_key = KeyPair::generate().unwrap();
    let file = |name: &str, text: &str| {
        // A new file in the place of the old one: nobody reads half of it.
        let (path, new) = (folder.path().join(name), folder.path().join("new"));
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
        path
    };
    let show = |chain: &str| file("chain.pem", chain);
    let good = trusted.chain(&leaf_key, "localhost", None);
    let (chain, key) = (show(&good), file("key.pem", &leaf_key.serialize_pem()));
    let bar = server(&folder.path().join("bar"), port, &chain, &key).await;
    let roots = file("roots.pem", &trusted.root_pem);
    let foo = client(&folder.path().join("foo"), port, roots).await;

    // Nobody sets a first bundle by hand: the name of the host is enough.
    until_keys(&foo, &[0], "bar.test", "jwt-svid", 1).await;

    type Case<'a> = (String, &'a str);
    let cases: [Case<'_>; 4] = [
        (trusted.chain(&leaf_key, "localhost", Some(2020)), "certificate expired"),
        (
            trusted.chain(&leaf_key, "other.test", None),
            "certificate not valid for name \"localhost\"",
        ),
        (stranger.chain(&leaf_key, "localhost", None), "UnknownIssuer"),
        // The authority between leaf and root is the server's to show.
        (trusted.leaf(&leaf_key, "localhost", None), "UnknownIssuer"),
    ];
    for (chain, expected) in cases {
        show(&chain);
        until_refresh(&foo, Some(&format!("invalid peer certificate: {expected}"))).await;
        assert_eq!(keys(&foo, 0, "bar.test", "jwt-svid"), 1, "the last good bundle stays");
        show(&good);
        until_refresh(&foo, None).await;
    }

    // And it is followed by itself.
    done(&bar, 0, &["localauthority", "jwt", "prepare"]);
    until_keys(&foo, &[0], "bar.test", "jwt-svid", 2).await;
}
