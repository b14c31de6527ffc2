// A small pool: the caller works too, helpers sleep between jobs and are woken only for jobs of several items.
// Not the kernels' pool, which spins between its stages and takes no work that can throw.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace wingbeat::sampler {

class ThreadPool {
   public:
    using Work = std::function<void(size_t item, size_t thread)>;

    explicit ThreadPool(size_t threads) : helpers_(threads - 1) {}

    ~ThreadPool() {
        {
            std::lock_guard lock(mutex_);
            stopping_ = true;
        }
        wake_.notify_all();
        for (std::thread& thread : threads_) thread.join();
    }

    // Calls work(item, thread) once for each item; thread < threads is unique among the calls that run at a time.
    void run(size_t items, const Work& work) {
        const size_t wanted = std::min(helpers_, items > 0 ? items - 1 : 0);
        next_.store(0, std::memory_order_relaxed);
        if (wanted > 0) call_helpers(wanted, items, work);
        take_items(items, work, 0);
        if (wanted > 0) dismiss_helpers();
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    }

   private:
    void call_helpers(size_t wanted, size_t items, const Work& work) {
        while (threads_.size() < wanted)
            threads_.emplace_back([this, thread = threads_.size() + 1] { help(thread); });
        {
            std::lock_guard lock(mutex_);
            work_ = &work;
            items_ = items;
            wanted_ = wanted;
        }
        for (size_t i = 0; i < wanted; ++i) wake_.notify_one();
    }

    // A helper that has not woken by now is no longer needed, so a slow wake-up never delays the caller.
    void dismiss_helpers() {
        std::unique_lock lock(mutex_);
        wanted_ = 0;
        done_.wait(lock, [this] { return busy_ == 0; });
    }

    void help(size_t thread) {
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [this] { return wanted_ > 0 || stopping_; });
            if (stopping_) return;
            --wanted_;
            ++busy_;
            const Work& work = *work_;
            const size_t items = items_;
            lock.unlock();
            take_items(items, work, thread);
            lock.lock();
            if (--busy_ == 0) done_.notify_one();
        }
    }

    // The first exception is kept for the caller, and ends the job: the items not begun are left out.
    void take_items(size_t items, const Work& work, size_t thread) noexcept {
        try {
            for (size_t item; (item = next_.fetch_add(1, std::memory_order_relaxed)) < items;) work(item, thread);
        } catch (...) {
            next_.store(items, std::memory_order_relaxed);
            std::lock_guard lock(mutex_);
            if (!error_) error_ = std::current_exception();
        }
    }

    const size_t helpers_;
    std::vector<std::thread> threads_;  // started when first needed
    std::atomic<size_t> next_{0};
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    const Work* work_ = nullptr;
    size_t items_ = 0, wanted_ = 0, busy_ = 0;
    bool stopping_ = false;
    std::exception_ptr error_;
};

}  // namespace wingbeat::sampler
