-- Shares where organizations, and within one its keys, compete for slots.
alter table organizations add column weight float8 not null default 1 check (weight between 0.01 and 100);
alter table api_keys add column weight float8 not null default 1 check (weight between 0.01 and 100);
