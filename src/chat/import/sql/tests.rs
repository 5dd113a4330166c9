use super::{
    super::{Chosen, Staged, source},
    *,
};

const COPY: &str = r#"--
-- PostgreSQL database dump
--

\restrict eTzBv5

SET standard_conforming_strings = on;
CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ begin raise notice 'a;b'; return new; end; $$;
CREATE TABLE public.communications_message (
    id bigint NOT NULL, conversation_id bigint, sender_id integer, created_at timestamp with time zone, "order" integer,
    text text DEFAULT 'a, (b; c'::text NOT NULL,
    price numeric(10,2),
    CONSTRAINT positive CHECK ((price > (0)::numeric))
);
COMMENT ON TABLE public.communications_message IS 'they''re; here';

COPY public.auth_user (id, password, username, first_name, last_name) FROM stdin;
42	pbkdf2_sha256$1	asha		
7	x		Juma	Mushi
\.

COPY public.communications_conversation (id, user_id, agent_id, property_id, created_at) FROM stdin;
7	42	7	\N	2024-01-15 10:30:00.5+00
\.

COPY public.communications_message (id, conversation_id, sender_id, text, created_at, "order") FROM stdin;
124	7	7	two\nlines\tand \\N	2024-01-15 10:31:00+00	1
123	7	42	\N	2024-01-15 10:30:00+00	2
\.
SELECT pg_catalog.setval('public.communications_message_id_seq', 124, true);
\unrestrict eTzBv5
"#;

fn read_dump(dump: &str) -> Result<Staged, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), dump).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let staged = runtime.block_on(source::stage(&source::Source::File(file.path().to_owned()), &Chosen::default(), &mut |_, _| {}));
    staged.map_err(|error| error.to_string().replace(&file.path().display().to_string(), "FILE"))
}

fn message(staged: &Staged, id: i64) -> Value {
    serde_json::from_str(&staged.staging.get(Kind::Message.as_number(), id).unwrap().unwrap()).unwrap()
}

#[test]
fn copied_rows_are_read() {
    let staged = read_dump(COPY).unwrap();
    assert_eq!(message(&staged, 124)["text"], "two\nlines\tand \\N");
    assert_eq!(message(&staged, 123)["text"], Value::Null);
    assert_eq!(message(&staged, 123)["sender"], "42");
    assert_eq!(staged.staging.count(Kind::Message.as_number()).unwrap(), 2);
    assert_eq!(staged.staging.name(Kind::User.as_number(), "42").unwrap().as_deref(), Some("asha"));
    assert_eq!(staged.staging.name(Kind::User.as_number(), "7").unwrap().as_deref(), Some("Juma Mushi"));
    let ignored: Vec<&String> = staged.ignored["public.communications_message"].iter().collect();
    assert_eq!(ignored, ["order", "price"]);
}

const INSERTS: &str = r"
INSERT INTO public.communications_conversation (id, user_id, agent_id, created_at) VALUES (7, 42, 7, '2024-01-15 10:30:00+00');
INSERT INTO public.communications_message (id, conversation_id, sender_id, text, is_read, created_at) VALUES
	(123, 7, 42, 'it''s; a
-- message (with all), sorts', true, '2024-01-15 10:30:00+00'),
	(124, 7, 7, E'tab\t\'quoted\' \\', false, '2024-01-15 10:31:00+00'::timestamptz),
	(125, 7, 7, NULL, NULL, '2024-01-15 10:32:00+00') ON CONFLICT DO NOTHING;
";

#[test]
fn inserted_rows_are_read() {
    let staged = read_dump(INSERTS).unwrap();
    assert_eq!(message(&staged, 123)["text"], "it's; a\n-- message (with all), sorts");
    assert_eq!(message(&staged, 123)["is_read"], "true");
    assert_eq!(message(&staged, 124)["text"], "tab\t'quoted' \\");
    assert_eq!(message(&staged, 124)["created_at"], "2024-01-15 10:31:00+00");
    assert_eq!((&message(&staged, 125)["text"], &message(&staged, 125)["is_read"]), (&Value::Null, &Value::Null));
}

#[test]
fn columns_that_are_not_named_are_those_of_the_table() {
    let bare = "CREATE TABLE public.communications_conversation (\n    id bigint NOT NULL,\n    \"user_id\" integer,\n    agent_id integer,\n    \
                created_at timestamp with time zone DEFAULT now() NOT NULL\n);\n\
                CREATE TABLE public.communications_message (id bigint, conversation_id bigint, sender_id int, text text, created_at timestamptz);\n\
                INSERT INTO public.communications_conversation VALUES (7, 42, 7, '2024-01-15 10:30:00+00');\n\
                INSERT INTO public.communications_message VALUES (123, 7, 42, 'x', '2024-01-15 10:30:00+00');\n";
    assert_eq!(message(&read_dump(bare).unwrap(), 123)["conversation"], "7");
    let data_only = bare.lines().filter(|line| line.starts_with("INSERT")).collect::<Vec<_>>().join("\n");
    let told = read_dump(&data_only).err().unwrap();
    assert!(told.starts_with("FILE: line 1: rows of public.communications_conversation do not name their columns; hint: "), "{told}");
}

#[track_caller]
fn check_refused(dump: &str, expected: &str) {
    assert_eq!(read_dump(dump).err().unwrap(), expected);
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let cut = COPY.split("SELECT").next().unwrap().trim_end().trim_end_matches("\\.");
    check_refused(cut, "FILE: line 26: the rows of public.communications_message have no end: the dump is cut off");
    check_refused(&COPY.replace("124\t7", "124"), "FILE: line 27: a row of public.communications_message that has not 6 columns");
    check_refused(
        &COPY.replace("\n124\t", "\nabc\t"),
        "FILE: line 27: table public.communications_message has a row with `abc` as its id: ids are kept, and have to be whole numbers from 1",
    );
    check_refused(&COPY.replace("\n124\t", "\n123\t"), "FILE: line 28: table public.communications_message has two rows with the id 123");
    check_refused(
        "SELECT 1;",
        "FILE has no table communications_conversation; hint: dump it too, or say what it is called with --map conversation=TABLE",
    );
    check_refused("", "FILE is empty");
    assert!(read_dump("PGDMP\u{1}").err().unwrap().contains("custom format; hint: make it plain with `pg_restore -f dump.sql FILE`"));
}
