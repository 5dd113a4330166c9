//! The filters as templates use them.

use minijinja::context;

use super::*;
use crate::template::{Limits, engine::Engine, link::Links};

/// 2026-01-15, 10:30 UTC.
const NOW: Timestamp = Timestamp::from_millis(1_768_473_000_000);

/// What `source` says as the file `name`, for a reader in Dar es Salaam.
fn rendered(name: &str, source: &str, locale: Option<&str>) -> Result<String, String> {
    let links = Links::new("https://app.example.com").expect("valid");
    let mut engine =
        Engine::new(&links, Limits { fuel: 50_000, output: 64 * 1024, sms_segments: 10, push_bytes: 4096, email_clip_bytes: 102 * 1024 });
    engine.add(name, name, source).map_err(|fault| fault.to_string())?;
    let defaults = LocaleDefaults { locale: "en".parse().expect("valid"), timezone: "UTC".parse().expect("valid") };
    let locale = locale.map(|tag| tag.parse().expect("valid"));
    let reader = defaults.reader(locale.as_ref(), Some("Africa/Dar_es_Salaam".parse().expect("valid")), NOW);
    let data = context! {
        when => "2026-01-15T20:30:00Z", day => "2026-01-15", soon => "2026-01-15T13:30:00Z", ago => "2026-01-13T10:30:00Z",
        price => 350_000, rent => "1250.505", debt => -20, share => 0.1, secret => "Asha", nothing => (),
    };
    let context = context! { ..data, ..Value::from_pairs([(READER, Value::from_object(reader))]) };
    engine.render(name, &context, |text| Ok(text.to_owned())).map_err(|fault| fault.into_problem().to_string())
}

/// In a part of the language `locale`, in text and with plain spaces.
#[track_caller]
fn check(locale: &str, tag: &str, expected: &str) {
    let name = format!("t/{locale}/sms.txt");
    assert_eq!(rendered(&name, &format!("{{{{ {tag} }}}}"), Some(locale)).as_deref(), Ok(expected), "{locale}: {tag}");
}

#[track_caller]
fn fails(tag: &str, expected: &str) {
    let told = rendered("t/sms.txt", &format!("\n{{{{ {tag} }}}}"), None).expect_err("fails");
    assert_eq!(told, format!("t/sms.txt:2: {expected}"));
    assert!(!told.contains("Asha"), "{told}");
}

#[test]
fn dates_are_written_as_the_language_does() {
    check("en", "day | date", "Jan 15, 2026");
    check("en", "day | date('short')", "1/15/26");
    check("en", "day | date('long')", "January 15, 2026");
    check("en", "day | date('full')", "Thursday, January 15, 2026");
    check("en-TZ", "day | date", "15 Jan 2026");
    check("sw", "day | date", "15 Jan 2026");
    check("sw-TZ", "day | date('long')", "15 Januari 2026");
    check("sw", "day | date('full')", "Alhamisi, 15 Januari 2026");
    check("fr", "day | date('long')", "15 janvier 2026");
    check("th", "day | date('short')", "15/1/26");
}

#[test]
fn moments_are_on_the_readers_clock() {
    check("en", "when | time", "23:30");
    check("sw", "when | time", "23:30");
    check("sw", "'2026-01-15T07:30:00+00:00' | time", "10:30");
    check("en", "'2026-01-15T22:30:00Z' | date", "Jan 16, 2026");
    check("en", "when | datetime", "Jan 15, 2026, 23:30");
    check("sw", "when | datetime", "15 Jan 2026, 23:30");
    check("en", "when | datetime('full')", "Thursday, January 15, 2026 at 23:30");
    check("en-u-hc-h12", "when | time", "11:30 PM");
}

#[test]
fn numbers_are_grouped_and_keep_their_digits() {
    check("en", "price | number", "350,000");
    check("sw", "price | number(digits=2)", "350,000.00");
    check("de", "rent | number(digits=2)", "1.250,51");
    check("fr", "price | number", "350 000");
    check("en", "rent | number", "1,250.505");
    check("en", "share | number", "0.1");
    check("en", "'12345678901234567890.123456789' | number", "12,345,678,901,234,567,890.123456789");
    check("en", "'0.125' | number(digits=2)", "0.13");
    check("en", "'-0.4' | number(digits=0)", "0");
    check("en", "'9.99' | number(digits=1)", "10.0");
    check("en", "'007' | number", "7");
}

#[test]
fn amounts_have_their_currencys_form() {
    check("en", "price | currency('TZS')", "TSh 350,000");
    check("sw", "price | currency('TZS')", "TSh 350,000");
    check("sw", "'350000.5' | currency('TZS')", "TSh 350,000.50");
    check("en", "rent | currency('USD')", "USD 1,250.51");
    check("en", "1250.5 | currency('USD')", "USD 1,250.50");
    check("en", "debt | currency('KES')", "-Ksh 20");
    check("en", "rent | currency('UGX')", "USh 1,251");
    check("en", "rent | currency('KWD')", "KWD 1,250.505");
    check("en", "'-0.001' | currency('EUR')", "EUR 0.00");
}

#[test]
fn plurals_follow_the_languages_categories() {
    let messages = "plural(one='# unread message', other='# unread messages')";
    check("en", &format!("1 | {messages}"), "1 unread message");
    check("en", &format!("0 | {messages}"), "0 unread messages");
    check("en", &format!("price | {messages}"), "350,000 unread messages");
    check("en", &format!("'1.0' | {messages}"), "1.0 unread messages");
    check("sw", "1 | plural(one='ujumbe #', other='jumbe #')", "ujumbe 1");
    check("pl", "3 | plural(one='#a', few='#b', many='#c', other='#d')", "3b");
    check("en", "3 | plural(few='#b', other='many')", "many");
}

#[test]
fn distances_are_told_in_words() {
    check("en", "soon | relative", "in 3 hours");
    check("sw", "soon | relative", "baada ya saa 3");
    check("en", "ago | relative", "2 days ago");
    check("sw", "ago | relative", "siku 2 zilizopita");
    check("en", "'2026-01-15T10:30:20Z' | relative", "just now");
    check("sw", "'2026-01-15T10:30:20Z' | relative", "sasa hivi");
    check("sw", "'2025-01-15T10:30:00Z' | relative", "mwaka 1 uliopita");
    check("en", "day | relative", "today");
    check("sw", "'2026-01-16' | relative", "kesho");
    check("sw", "'2026-01-17' | relative", "kesho kutwa");
    check("sw", "'2026-01-13' | relative", "juzi");
    check("sw", "'2026-01-18' | relative", "baada ya siku 3");
    check("en", "'2026-01-17' | relative", "in 2 days");
    check("fr", "soon | relative", "in 3 hours");
}

#[test]
fn one_message_speaks_one_language() {
    let everyones = |locale| rendered("t/sms.txt", "{{ day | date('long') }}", locale);
    assert_eq!(everyones(None).as_deref(), Ok("January 15, 2026"));
    assert_eq!(everyones(Some("en-GB")).as_deref(), Ok("15 January 2026"));
    assert_eq!(everyones(Some("sw")).as_deref(), Ok("January 15, 2026"));
    assert_eq!(rendered("_layouts/sw/words.txt", "{{ day | date('long') }}", Some("sw-TZ")).as_deref(), Ok("15 Januari 2026"));
    assert_eq!(rendered("_layouts/words.txt", "{{ day | date('long') }}", Some("sw-TZ")).as_deref(), Ok("January 15, 2026"));
}

#[test]
fn macros_know_whom_they_are_for() {
    let source = "{% macro price(amount) %}{{ amount | currency('TZS') }}, {{ when | time }}{% endmacro %}{{ price(5000) }}";
    assert_eq!(rendered("t/sw/sms.txt", source, Some("sw")).as_deref(), Ok("TSh 5,000, 23:30"));
}

#[test]
fn html_is_escaped_and_does_not_break() {
    let html = |source| rendered("t/email.html", source, None);
    assert_eq!(html("{{ price | currency('TZS') }}").as_deref(), Ok("TSh\u{a0}350,000"));
    assert_eq!(html("{{ day | date('short') }}").as_deref(), Ok("1/15/26"));
    assert_eq!(html("{{ 2 | plural(other='<b># & more') }}").as_deref(), Ok("&lt;b&gt;2 &amp; more"));
    assert_eq!(rendered("t/push.json", "{{ price | currency('TZS') }}", None).as_deref(), Ok("\"TSh 350,000\""));
}

#[test]
fn what_cannot_be_written_is_told_without_it() {
    fails(
        "secret | date",
        "`date` was given something that is not a date in `{{ secret | date }}` (hint: give it a text such as 2026-01-15T10:30:00Z or 2026-01-15)",
    );
    fails(
        "day | time",
        "`time` was given something that is not a date with its time in `{{ day | time }}` \
         (hint: give it a text such as 2026-01-15T10:30:00Z, with its offset from UTC)",
    );
    fails(
        "nothing | relative",
        "`relative` was given null in `{{ nothing | relative }}` (hint: give it a text such as 2026-01-15T10:30:00Z or 2026-01-15)",
    );
    fails("day | date('shrot')", "`date` knows no such style in `{{ day | date('shrot') }}` (hint: did you mean `short`?)");
    fails(
        "day | date(style='long')",
        "`date` has an argument by a name it does not know in `{{ day | date(style='long') }}` (hint: it takes none)",
    );
    fails(
        "secret | number",
        "`number` was given something that is not a number in `{{ secret | number }}` (hint: give it a number, or text such as 1250.50)",
    );
    fails(
        "price | number(digits=-1)",
        "`number` has `digits` it cannot write in `{{ price | number(digits=-1) }}` (hint: write a number from 0 to 10: digits=2)",
    );
    fails("price | currency", "`currency` has no code of ISO 4217 in `{{ price | currency }}` (hint: write it like currency(\"TZS\"))");
    fails(
        "price | currency(secret)",
        "`currency` has a code that is not one of ISO 4217 in `{{ price | currency(secret) }}` (hint: write it like currency(\"TZS\"))",
    );
    fails(
        "price | plural(one='#')",
        "`plural` has no `other` in `{{ price | plural(one='#') }}` (hint: write plural(one=\"# message\", other=\"# messages\"))",
    );
    for bad in ["'1e9'", "'1,000'", "''", "'.5'", "'1.'", "'--1'", "'1234567890123456789012345678901234567890.5'", "[]", "true", "nothing"]
    {
        assert!(rendered("t/sms.txt", &format!("{{{{ {bad} | number }}}}"), None).is_err(), "{bad}");
    }
    fails(
        "missing | date",
        "`missing` is not defined (hint: bring it in the data (and in sample.json), or guard it with {% if missing is defined %})",
    );
}

#[test]
fn a_flood_of_languages_is_bounded() {
    for index in 0..100 {
        check(&format!("en-x-a{index}"), "price | number", "350,000");
    }
}
