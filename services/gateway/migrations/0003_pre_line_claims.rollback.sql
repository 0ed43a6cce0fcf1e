alter table batch_lines drop column claimed_by, drop column losses;
