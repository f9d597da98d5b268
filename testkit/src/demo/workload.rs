//! A workload that none of us wrote: the `spiffe` crate fetches, `spiffe-rustls` shakes hands.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use spiffe::{JwtSvid, WorkloadApiClient, X509Source};
use spiffe_rustls::{authorizer, mtls_client, mtls_server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Fetches an X.509-SVID and proves it by a mutual TLS handshake with itself; returns its id.
pub(crate) async fn x509(endpoint: &str) -> Result<String> {
    let end = End::open(endpoint).await?;
    let shaken = handshake(&end, &end).await;
    shaken.context("mutual TLS between two ends with this SVID")?;
    Ok(end.id)
}

/// Mutual TLS between the workloads of two agents, each of which authorises the other by its id.
pub(crate) async fn between(serving: &str, asking: &str) -> Result<()> {
    let (serving, asking) = (End::open(serving).await?, End::open(asking).await?);
    let shaken = handshake(&serving, &asking).await;
    shaken.with_context(|| format!("mutual TLS of {} to {}", asking.id, serving.id))
}

/// One end of a handshake.
struct End {
    source: X509Source,
    id: String,
}

impl End {
    async fn open(endpoint: &str) -> Result<Self> {
        let source = X509Source::builder().endpoint(endpoint).build().await;
        let source = source.context("open an X509Source")?;
        let id = source.svid().context("take the SVID")?.spiffe_id().to_string();
        Ok(Self { source, id })
    }
}

async fn handshake(serving: &End, asking: &End) -> Result<()> {
    let (of_server, of_client) = (serving.source.clone(), asking.source.clone());
    let client = authorizer::exact([asking.id.as_str()])?;
    let server = mtls_server(of_server).authorize(client).build()?;
    let client = mtls_client(of_client).authorize(authorizer::exact([serving.id.as_str()])?);
    let client = client.build()?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let accept = async {
        let (stream, _) = listener.accept().await?;
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(stream).await?;
        stream.write_all(b"hello").await?;
        stream.shutdown().await
    };
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        let name =
            rustls_pki_types::ServerName::try_from("localhost").map_err(std::io::Error::other)?;
        let mut stream = TlsConnector::from(Arc::new(client)).connect(name, stream).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    let (accepted, read) = tokio::join!(accept, connect);
    accepted.context("server's end")?;
    ensure!(read.context("client's end")? == "hello", "the handshake carried no data");
    Ok(())
}

/// Fetches a JWT-SVID and verifies it against the fetched bundles; returns its subject.
pub(crate) async fn jwt(client: &WorkloadApiClient, audience: &str) -> Result<String> {
    let svid = client.fetch_jwt_svid([audience], None).await.context("fetch a JWT-SVID")?;
    let bundles = client.fetch_jwt_bundles().await.context("fetch JWT bundles")?;
    let checked = JwtSvid::parse_and_validate(svid.token(), &bundles, &[audience]);
    Ok(checked.context("verify the JWT-SVID")?.spiffe_id().to_string())
}
