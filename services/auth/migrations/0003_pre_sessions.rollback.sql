drop table login_failures;
alter table users drop column disabled_at;
alter table users drop column name;
alter table user_sessions drop column refresh_digest;
alter table user_sessions drop column refresh_family;
