drop table daily_usage;
drop table token_ledger;
drop table usage_limits;
alter table api_keys drop constraint api_keys_limited;
