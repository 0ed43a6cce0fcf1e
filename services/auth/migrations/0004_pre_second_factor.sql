-- The second factor belongs to the user, whatever the organization. Without activated_at it has been offered, not taken up.
create table user_totp (
    user_id uuid primary key references users on delete cascade,
    sealed_secret bytea not null,
    created_at timestamptz not null default now(),
    activated_at timestamptz,
    last_counter bigint not null default 0
);

-- 80 random bits each, so a plain SHA-256 is hash enough.
create table recovery_codes (
    user_id uuid not null references users on delete cascade,
    digest text not null check (digest ~ '^[0-9a-f]{64}$'),
    used_at timestamptz,
    primary key (user_id, digest)
);

-- Members with one of these roles may do nothing but set up their second factor until they have one.
alter table organizations add column second_factor_roles text[] not null default '{}';

-- Who has been erased, until nothing that was still at work for them can write their id again.
create table erased_users (
    user_id uuid primary key,
    erased_at timestamptz not null default now(),
    announced_at timestamptz not null default now()
);

call audited('user_totp', 'user_id', 'sealed_secret', '-last_counter');
call audited('recovery_codes', 'user_id', 'digest');

-- The audit log outlives its people: it knows them by their id alone.
drop trigger audit on users;
call audited('users', 'id', 'password_hash', 'email', 'name');
