drop trigger audit on users;
call audited('users', 'id', 'password_hash');
drop table erased_users;
alter table organizations drop column second_factor_roles;
drop table recovery_codes;
drop table user_totp;
