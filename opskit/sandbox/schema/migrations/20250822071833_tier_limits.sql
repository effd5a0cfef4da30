alter table subscription_plan_limits rename to subscription_tier_limits;

alter table subscription_tier_limits rename column plan to tier;

alter index subscription_plan_limits_pkey rename to subscription_tier_limits_pkey;

alter table subscription_tier_limits
  add column max_document_snapshots integer,
  add column ai_words_per_month integer,
  add column ai_requests_per_month integer;

update subscription_tier_limits l
set max_document_snapshots = v.snapshots, ai_words_per_month = v.words, ai_requests_per_month = v.requests
from (values ('free', 200, 25000, 300), ('hobbyist', 1000, 120000, 1500), ('professional', 4000, 400000, 5000))
  as v (tier, snapshots, words, requests)
where v.tier = l.tier;

create function public.enforce_document_limit() returns trigger language plpgsql as $$
declare
  plan text;
  cap integer;
begin
  select p.subscription_tier, l.max_documents into plan, cap
  from user_profiles p join subscription_tier_limits l on l.tier = p.subscription_tier where p.id = new.user_id;
  if cap is not null and (select count(*) from documents where user_id = new.user_id) >= cap then
    raise exception 'Plan % allows % documents', plan, cap using errcode = 'check_violation';
  end if;
  return new;
end $$;

create trigger documents_limit before insert on documents for each row execute function enforce_document_limit();

create function public.enforce_snapshot_limit() returns trigger language plpgsql as $$
declare
  plan text;
  cap integer;
begin
  select p.subscription_tier, l.max_document_snapshots into plan, cap
  from user_profiles p join subscription_tier_limits l on l.tier = p.subscription_tier where p.id = new.user_id;
  if cap is not null and (select count(*) from document_snapshots where user_id = new.user_id) >= cap then
    raise exception 'Plan % allows % document snapshots', plan, cap using errcode = 'check_violation';
  end if;
  return new;
end $$;

create trigger document_snapshots_limit before insert on document_snapshots
  for each row execute function enforce_snapshot_limit();
