//! `tarishi import-env`: a Django system's settings become a configuration that `tarishi check` takes, and no secret is told.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::support::templates;

const SECRETS: [&str; 6] = [
    "SG.a-key-nobody-may-see",
    "a-twilio-token-nobody-may-see",
    "a mail password # nobody may see",
    "redis/password",
    "a secret key of Django's that signs every token",
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
];

/// A `.env` as it is found in the wild: quotes, remarks, `export`, and lines that mean nothing here.
fn full() -> String {
    let [sendgrid, twilio, mail, _, django, fernet] = SECRETS;
    format!(
        "# settings\r\nDEBUG=False\r\nexport SENDGRID_API_KEY={sendgrid}\r\nDEFAULT_FROM_EMAIL=\"SmartDalali <hello@example.com>\"\r\n\
         TWILIO_ACCOUNT_SID=AC00000000000000000000000000000000 # live\r\nTWILIO_AUTH_TOKEN='{twilio}'\r\nTWILIO_PHONE_NUMBER=+255712345678\r\n\
         EMAIL_HOST=mail.example.com\r\nEMAIL_PORT=587\r\nEMAIL_USE_TLS=True\r\nEMAIL_HOST_USER=apikey@example.com\r\n\
         EMAIL_HOST_PASSWORD=\"{mail}\"\r\nSECRET_KEY=too-short\r\nSECRET_KEY=\"{django}\"\r\nMESSAGE_ENCRYPTION_KEY={fernet}\r\n\
         FRONTEND_URL=https://app.example.com/\r\nREDIS_URL=redis://:redis%2Fpassword@cache.internal:6379/1\r\n"
    )
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tarishi"));
    command.args(arguments).current_dir(folder).env_clear().env("TARISHI__TEMPLATES__PATH", templates()).output().unwrap()
}

#[track_caller]
fn no_secrets(output: &Output) {
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for secret in SECRETS {
        assert!(!told.contains(secret), "{secret} is told: {told}");
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_written_is_taken_by_check_and_tells_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join(".env"), full()).unwrap();
    let done = run(folder, &["import-env", "--env-file", ".env", "--sms-prefix", "+255"]);
    no_secrets(&done);
    let told = String::from_utf8(done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(0), "{told}{}", String::from_utf8_lossy(&done.stderr));
    assert!(told.contains("provider.sendgrid.api_key_file") && told.contains("Next:"), "{told}");

    let checked = run(folder, &["check", "--json", "--config", "config/tarishi.toml"]);
    no_secrets(&checked);
    let config: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!((checked.status.code(), &config["good"]), (Some(0), &json!(true)), "{config:#}");
    let config = &config["config"];
    assert_eq!(config["channel"]["email"]["providers"], json!(["sendgrid", "smtp"]));
    assert_eq!(config["channel"]["sms"]["providers"], json!(["twilio"]));
    assert_eq!(config["provider"]["twilio"]["from"], "+255712345678");
    assert_eq!(config["templates"]["link_base_url"], "https://app.example.com");
    assert_eq!(config["public"]["allowed_origins"], json!(["https://app.example.com"]));
    assert_eq!(config["bus"]["url"], "redis://cache.internal:6379/1");

    let secrets = folder.join("config/secrets");
    assert_eq!(mode(&secrets), 0o700);
    let written: Vec<_> = fs::read_dir(&secrets).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(written.len(), SECRETS.len(), "{written:?}");
    for file in &written {
        assert_eq!(mode(file), 0o600, "{}", file.display());
        let text = fs::read_to_string(file).unwrap();
        assert!(SECRETS.contains(&text.trim_end()), "{}", file.display());
    }
    let text = fs::read_to_string(folder.join("config/tarishi.toml")).unwrap();
    assert!(SECRETS.iter().all(|secret| !text.contains(secret)), "{text}");
}

#[test]
fn nothing_is_replaced_unless_asked_and_a_dry_run_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join(".env"), full()).unwrap();
    let dry = run(folder, &["import-env", "--env-file", ".env", "--dry-run"]);
    no_secrets(&dry);
    assert_eq!((dry.status.code(), folder.join("config").exists()), (Some(0), false));
    assert!(String::from_utf8_lossy(&dry.stdout).contains("--sms-prefix"), "SMS stay in the outbox, and it is told");

    fs::create_dir(folder.join("config")).unwrap();
    fs::write(folder.join("config/tarishi.toml"), "# mine\n").unwrap();
    let refused = run(folder, &["import-env", "--env-file", ".env"]);
    no_secrets(&refused);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--force"));
    assert_eq!(fs::read_to_string(folder.join("config/tarishi.toml")).unwrap(), "# mine\n");
    assert!(!folder.join("config/secrets").exists());
    let forced = run(folder, &["import-env", "--env-file", ".env", "--force"]);
    assert_eq!(forced.status.code(), Some(0));
    let names: Vec<_> = fs::read_dir(folder.join("config")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing is left beside: {names:?}");
}

#[test]
fn what_is_missing_is_told_and_what_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join(".env"), "SENDGRID_API_KEY=SG.x\nDEFAULT_FROM_EMAIL=hello@example.com\n").unwrap();
    let told = run(folder, &["import-env", "--env-file", ".env", "--json", "--out", "elsewhere"]);
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    let missing: Vec<&str> = told["missing"].as_array().unwrap().iter().map(|one| one["variable"].as_str().unwrap()).collect();
    assert!(missing.contains(&"SECRET_KEY") && missing.contains(&"TWILIO_ACCOUNT_SID"), "{told:#}");
    assert_eq!(run(folder, &["check", "--config", "elsewhere/tarishi.toml"]).status.code(), Some(0));

    let wrong = [
        ("SECRET_KEY=shortsecret", "SECRET_KEY", "shortsecret"),
        ("MESSAGE_ENCRYPTION_KEY=shortsecret", "MESSAGE_ENCRYPTION_KEY", "shortsecret"),
        ("REDIS_URL=http://u:shortsecret@x", "REDIS_URL", "shortsecret"),
        ("FRONTEND_URL=https://u:shortsecret@app.example.com", "FRONTEND_URL", "shortsecret"),
        ("FRONTEND_URL=https://a.example.com,https://b.example.com", "FRONTEND_URL", "no value"),
        ("EMAIL_HOST=mail.example.com\nEMAIL_HOST_USER=a", "EMAIL_HOST_PASSWORD", "no value"),
        ("SENDGRID_API_KEY", "line 1", "no value"),
        ("DEBUG=1", ".env has none", "no value"),
        ("SENDGRID_FROM_EMAIL=a@example.com", "SENDGRID_API_KEY or EMAIL_HOST", "no value"),
        ("SENDGRID_FROM_EMAIL=a@example.com\nSENDGRID_API_KEY=", "nothing in SENDGRID_API_KEY", "no value"),
        ("EMAIL_HOST=mail.example.com\nEMAIL_PORT=99999", "EMAIL_PORT: no port", "EMAIL_HOST:"),
        ("EMAIL_HOST=mail.example.com\nEMAIL_PORT=mail", "EMAIL_PORT: no port", "EMAIL_HOST:"),
        ("EMAIL_HOST=smtp://mail.example.com", "EMAIL_HOST: no mail server", "no value"),
        ("EMAIL_HOST=mail.example.com\nEMAIL_USE_SSL=1\nEMAIL_USE_TLS=1", "on, and so is EMAIL_USE_TLS", "no value"),
    ];
    for (text, named, secret) in wrong {
        fs::write(folder.join(".env"), text).unwrap();
        let refused = run(folder, &["import-env", "--env-file", ".env"]);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(3), "{text}: {told}");
        assert!(told.contains(named) && !told.contains(secret), "{text}: {told}");
        assert!(!folder.join("config").exists(), "{text}");
    }
    fs::write(folder.join(".env"), b"SECRET_KEY=caf\xe9\n").unwrap();
    let told = String::from_utf8(run(folder, &["import-env", "--env-file", ".env"]).stderr).unwrap();
    assert!(told.contains("line 1: not UTF-8 (hint: save the file as UTF-8"), "{told}");
}

#[test]
fn what_django_would_do_otherwise_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mail = "DEFAULT_FROM_EMAIL=hello@example.com\nEMAIL_HOST=old.example.com\nEMAIL_USE_SSL=True\nDEBUG=1\nDEBUG=2\n";
    fs::write(folder.join(".env"), format!("{mail}EMAIL_HOST=mail.example.com\n")).unwrap();
    let told = run(folder, &["import-env", "--env-file", ".env", "--json", "--dry-run"]);
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    let notes = told["notes"].to_string();
    assert!(notes.contains("port 465 is taken, where Django takes 25"), "{told:#}");
    assert!(notes.contains("EMAIL_HOST is there more than once: line 6 counts") && !notes.contains("DEBUG"), "{told:#}");
    let shown = run(folder, &["import-env", "--env-file", ".env", "--dry-run"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("url = \"smtps://mail.example.com:465\""), "{shown}");
}
