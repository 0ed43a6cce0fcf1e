create table organizations (
    id text primary key default gen_random_uuid()::text,
    name text not null unique,
    created_at timestamptz not null default now()
);

-- Everybody's organization until there are others; anonymous callers belong to it too, so its id is known.
insert into organizations (id, name) values ('default', 'default');

create table users (
    id uuid primary key default gen_random_uuid(),
    organization_id text not null references organizations,
    email text not null unique check (email = lower(email)),
    password_hash text not null,
    role text not null check (role in ('admin', 'operator', 'user', 'readonly')),
    created_at timestamptz not null default now()
);

-- A revoked key stays, so that its digest can never be issued again and its past uses keep a name.
create table api_keys (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references users on delete cascade,
    name text not null,
    prefix text not null,
    digest text not null unique check (digest ~ '^[0-9a-f]{64}$'),
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz
);

create index api_keys_of_user on api_keys (user_id, created_at);

-- The private key is sealed with AES-256-GCM under AUTH_SECRET_KEY: a copy of the database signs nothing.
create table signing_keys (
    id text primary key,
    sealed_private_key bytea not null,
    public_jwk json not null,
    created_at timestamptz not null default now()
);
