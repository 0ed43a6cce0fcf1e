-- claimed_by: the gateway whose claim it is. losses: how many of its tries were lost.
alter table batch_lines add column claimed_by text, add column losses integer not null default 0;
