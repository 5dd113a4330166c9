//! The replaced system's database itself: one snapshot, read as COPY gives it, never all at once.

use std::{path::Path, sync::Arc};

use futures_util::{StreamExt as _, pin_mut};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject as _};
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{ImportError, Kind, source::Intake, sql::copied};

/// Bytes of one row, as in dumps.
const LENGTH_LIMIT: usize = 64 << 20;

/// Reads what is wanted; gives a name for the database, without what is secret in its URL.
pub(super) async fn read(
    url: &str,
    password: Option<&str>,
    ca_file: Option<&Path>,
    intake: &mut Intake<'_>,
    on_read: &mut dyn FnMut(u64, u64),
) -> Result<String, ImportError> {
    const HINT: &str = "hint: write it like \"postgres://reader@db.internal/smartdalali?sslmode=require\"";
    let mut config: Config = url.parse().map_err(|_| ImportError::source(format!("not the URL of a PostgreSQL database; {HINT}")))?;
    if let Some(password) = password.filter(|_| config.get_password().is_none()) {
        config.password(password);
    }
    let hosts: Vec<String> = config.get_hosts().iter().map(|host| format!("{host:?}")).collect();
    let name = format!("the database {} at {}", config.get_dbname().or(config.get_user()).unwrap_or("?"), hosts.join(", "));
    let failed = |doing: &str, error: &tokio_postgres::Error| ImportError::source(format!("{name}: {doing}: {}", told(error)));
    let tls = MakeRustlsConnect::new(tls(ca_file)?);
    let (client, connection) = config.connect(tls).await.map_err(|error| failed("cannot be reached", &error))?;
    let driving = async {
        // What goes wrong with it is told by whoever asks something of it.
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    let reading = async {
        let start = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL TIME ZONE 'UTC'; SET LOCAL DateStyle = 'ISO';
                     SET LOCAL IntervalStyle = 'postgres'; SET LOCAL client_encoding = 'UTF8';";
        client.batch_execute(start).await.map_err(|error| failed("cannot be read", &error))?;
        let mut read = 0;
        for kind in Kind::ALL {
            for table in intake.chosen.tables_of(kind) {
                read_table(&client, kind, &table, intake, &mut |bytes| {
                    read += bytes;
                    on_read(read, 0);
                })
                .await
                .map_err(|error| match error {
                    Failed::Database(error) => failed(&table, &error),
                    Failed::Import(error) => error,
                })?;
            }
        }
        Ok::<(), ImportError>(())
    };
    tokio::select! {
        done = reading => done?,
        () = driving => {}
    }
    Ok(name)
}

enum Failed {
    Database(tokio_postgres::Error),
    Import(ImportError),
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error)
    }
}

impl From<ImportError> for Failed {
    fn from(error: ImportError) -> Self {
        Self::Import(error)
    }
}

async fn read_table(client: &Client, kind: Kind, table: &str, intake: &mut Intake<'_>, on_read: &mut dyn FnMut(u64)) -> Result<(), Failed> {
    let quoted = table.split('.').map(|part| format!("\"{}\"", part.trim_matches('"').replace('"', "\"\""))).collect::<Vec<_>>().join(".");
    let columns = client
        .query(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            &[&quoted],
        )
        .await?;
    let there: Vec<String> = columns.iter().map(|row| row.get(0)).collect();
    if there.is_empty() {
        return Ok(());
    }
    intake.table(kind, table, &there)?;
    let wanted: Vec<String> =
        intake.choice(table).map(|choice| choice.columns.iter().map(|(_, theirs)| theirs.clone()).collect()).unwrap_or_default();
    let list = wanted.iter().map(|column| format!("\"{}\"", column.replace('"', "\"\""))).collect::<Vec<_>>().join(", ");
    let rows = client.copy_out(&format!("COPY (SELECT {list} FROM {quoted}) TO STDOUT")).await?;
    pin_mut!(rows);
    let mut pending = Vec::new();
    while let Some(chunk) = rows.next().await {
        let chunk = chunk?;
        on_read(chunk.len() as u64);
        pending.extend_from_slice(&chunk);
        if pending.len() > LENGTH_LIMIT {
            return Err(ImportError::source(format!("table {table} has a row that is too long")).into());
        }
        let mut start = 0;
        while let Some(length) = pending[start..].iter().position(|byte| *byte == b'\n') {
            let line = &pending[start..start + length];
            let row = std::str::from_utf8(line).ok().and_then(|line| copied(line, &wanted));
            let row = row.ok_or_else(|| ImportError::source(format!("table {table} has a row that does not read")))?;
            intake.row(kind, table, row)?;
            start += length + 1;
        }
        pending.drain(..start);
    }
    Ok(())
}

/// What the server says, or why there is none.
fn told(error: &tokio_postgres::Error) -> String {
    if let Some(database) = error.as_db_error() {
        return database.message().to_owned();
    }
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, ImportError> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = ca_file {
        let refused = |reason: String| ImportError::source(format!("{} {reason}", file.display()));
        let found = CertificateDer::pem_file_iter(file).map_err(|error| refused(format!("cannot be read: {error}")))?;
        for certificate in found {
            let certificate = certificate.map_err(|error| refused(format!("is no certificate in PEM: {error}")))?;
            roots.add(certificate).map_err(|error| refused(format!("has a certificate that is none: {error}")))?;
        }
    } else {
        // Some that do not parse are of no matter; with none at all no server is trusted, which it tells then.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions.map_err(|error| ImportError::source(format!("TLS cannot be had: {error}")))?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}
