-- What was asked, and the ledger that quotas count.
create table ai_requests (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references user_profiles (id) on delete cascade,
  document_id uuid references documents (id) on delete set null,
  requested_model text,
  selected_model text not null,
  command text,
  intent text,
  prompt_preview text,
  latency_ms integer,
  prompt_tokens integer,
  completion_tokens integer,
  status text not null default 'succeeded',
  error text,
  routing_metadata jsonb,
  created_at timestamptz not null default now()
);

create index ai_requests_created on ai_requests (created_at);

create index ai_requests_user on ai_requests (user_id, created_at);

create table ai_usage (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references user_profiles (id) on delete cascade,
  request_id uuid references ai_requests (id) on delete set null,
  model text not null,
  words_generated integer not null,
  created_at timestamptz not null default now()
);

create index ai_usage_user on ai_usage (user_id, created_at);

alter table ai_requests enable row level security;

create policy own_select on ai_requests for select to authenticated using ((select auth.uid()) = user_id);

create policy own_insert on ai_requests for insert to authenticated with check ((select auth.uid()) = user_id);

alter table ai_usage enable row level security;

create policy own_select on ai_usage for select to authenticated using ((select auth.uid()) = user_id);

create policy own_insert on ai_usage for insert to authenticated with check ((select auth.uid()) = user_id);
