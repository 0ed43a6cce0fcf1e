-- What a refresh token consists of, hashed: the family stays as long as the session, the digest changes at each refresh.
-- Old code makes sessions without either; they cannot be refreshed.
alter table user_sessions add column refresh_family text unique;
alter table user_sessions add column refresh_digest text;

alter table users add column name text not null default '';
alter table users add column disabled_at timestamptz;

-- Not a tenant's: who fails to log in belongs to none. subject: of what it is about, hashed, since people type
-- passwords where the address belongs.
create table login_failures (
    subject text primary key,
    failures integer not null,
    failed_at timestamptz not null default now(),
    locked_until timestamptz
);
